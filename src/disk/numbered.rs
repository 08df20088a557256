//! The files of a disk's folder whose names end in a number: `log.3`, `checkpoint.2`, `recent.3`.

/// The numbers behind `prefix` among these names, ascending. The highest there is is no number: none follows it.
pub(crate) fn numbers(names: &[String], prefix: &str) -> Vec<u64> {
    let found = names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok());
    let mut numbers: Vec<u64> = found.filter(|&number| number < u64::MAX).collect();
    numbers.sort_unstable();
    numbers
}
