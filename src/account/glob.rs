//! Patterns of names: `*` stands for any characters, also none, and `?` for one.

/// A pattern that is matched against whole names.
#[derive(Debug, Clone)]
pub(super) struct Glob(Vec<char>);

impl Glob {
    pub(super) fn new(pattern: &str) -> Self {
        Self(pattern.chars().collect())
    }

    /// Takes the product of both lengths at the most.
    pub(super) fn matches(&self, name: &str) -> bool {
        let Self(pattern) = self;
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut of_name) = (0, 0);
        // The last star, and how much of the name it stands for ends where.
        let mut star: Option<(usize, usize)> = None;
        while of_name < name.len() {
            match pattern.get(at) {
                Some('*') => {
                    star = Some((at, of_name));
                    at += 1;
                }
                Some(&c) if c == '?' || c == name[of_name] => {
                    at += 1;
                    of_name += 1;
                }
                _ => match &mut star {
                    None => return false,
                    Some((place, until)) => {
                        *until += 1;
                        (at, of_name) = (*place + 1, *until);
                    }
                },
            }
        }
        pattern[at..].iter().all(|&c| c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As one would say it, and much slower.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], _) => name.is_empty(),
            (['*', rest @ ..], _) => (0..=name.len()).any(|from| naive(rest, &name[from..])),
            (['?', rest @ ..], [_, name @ ..]) => naive(rest, name),
            ([c, rest @ ..], [d, name @ ..]) => c == d && naive(rest, name),
            _ => false,
        }
    }

    #[test]
    fn every_short_pattern_matches_what_it_should() {
        let words = |letters: &[char]| {
            let mut words = vec![String::new()];
            for length in 1..=5 {
                let longer: Vec<_> = words.iter().filter(|word| word.len() + 1 == length).cloned().collect();
                words.extend(longer.iter().flat_map(|word| letters.iter().map(move |c| format!("{word}{c}"))));
            }
            words
        };
        for pattern in words(&['a', 'b', '*', '?']) {
            let glob = Glob::new(&pattern);
            let chars: Vec<_> = pattern.chars().collect();
            for name in words(&['a', 'b']) {
                let name_chars: Vec<_> = name.chars().collect();
                assert_eq!(glob.matches(&name), naive(&chars, &name_chars), "{pattern} {name}");
            }
        }
        assert!(Glob::new("h?*").matches("hä/x") && !Glob::new("h?").matches("h"));
        // No time in which a client could hold up others.
        let began = std::time::Instant::now();
        assert!(!Glob::new(&"*a".repeat(500)).matches(&"a".repeat(499)));
        assert!(began.elapsed() < std::time::Duration::from_secs(1));
    }
}
