//! Whether the server is fit to serve: what `/healthz` answers.

use crate::account::watch::AccountStats;

/// Why the server is not fit to serve, a line each; empty: it is. `poisoned`: disks on which storing failed. What could
/// not be looked at in time counts as healthy: a restart would meet the same storage.
pub(super) fn reasons<'a>(account: &AccountStats, poisoned: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut reasons = Vec::new();
    if account.keys_held == Some(false) {
        reasons.push("the keys of the account are not held".to_owned());
    }
    if account.in_doubt {
        reasons.push("names of disks are in doubt since a sync failed: restart the server".to_owned());
    }
    reasons.extend(poisoned.map(|name| format!("{name} takes no changes since storing failed: restart the server")));
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_gone_doubt_and_failed_storing_are_reasons_and_what_is_not_known_is_none() {
        let of = |keys_held, in_doubt, poisoned: &[&str]| {
            let account = AccountStats { keys_held, in_doubt, ..AccountStats::default() };
            reasons(&account, poisoned.iter().copied()).len()
        };
        assert_eq!((of(Some(true), false, &[]), of(None, false, &[])), (0, 0));
        assert_eq!((of(Some(false), false, &[]), of(None, true, &[]), of(None, false, &["a", "b"])), (1, 1, 2));
    }
}
