//! An account is its owner's.

use crate::rig::as_root;

#[test]
fn an_account_of_another_user_is_refused() {
    as_root(
        r#"
        key kek; sd init --key-file kek; sd create d --size 1M; chmod -R a+rX account
        # Root's account is trusted by all, if they may read it; another user's by root alone.
        other "$B" --account "$A" list | grep -q d
        chown -R 1000 account
        for verb in list status "show d" "key erase d --yes-erase d" "key restore" "key rotate-kek --key-file kek" serve "create e --size 1M"; do
            refused "belongs to another user (uid 1000)" other "$B" --account "$A" $verb
        done
        refused "sudo -u '#1000'" other "$B" --account "$A" --json init
    "#,
    );
}

#[test]
fn an_account_in_which_others_may_write_is_refused_by_root_too() {
    as_root(
        r#"
        key kek; sd init --key-file kek
        for mode in 770 702 1777; do
            chmod $mode account
            for verb in list serve "create d --size 1M" "key revoke"; do refused "others than its owner may write" sd $verb; done
        done
        chmod 700 account
        for file in account.toml lock disks; do
            before=$(stat -c %a account/$file); chmod g+w account/$file
            refused "account/$file: others than its owner may write" sd list
            chmod $before account/$file
            chown 65534 account/$file
            refused "account/$file: belongs to uid 65534, the account to uid 0" sd list
            chown 0 account/$file
        done
        mv account/account.toml elsewhere; ln -s ../elsewhere account/account.toml
        refused "account/account.toml: is a symbolic link" sd list
    "#,
    );
}

#[test]
fn a_sticky_folder_of_all_may_hold_an_account() {
    as_root(
        r#"
        mkdir -m 1777 shared; A=$T/shared/account; key kek; sd init --key-file kek; sd create d --size 1M; sd list | grep -q d
        other "$B" --account "$T/shared/own" init --key-command 'echo 5555555555555555555555555555555555555555555555555555555555555555'
        other "$B" --account "$T/shared/own" list --key-command 'echo 5555555555555555555555555555555555555555555555555555555555555555'
    "#,
    );
}

/// Root names a place of that user's, and would act on an account of its own.
#[test]
fn a_link_of_another_user_leads_to_no_account_but_that_users() {
    as_root(
        r#"
        key kek; sd init --key-file kek; sd create d --size 1M
        install -d -o 65534 -g 65534 theirs theirs/own; key theirs/kek; chown 65534 theirs/kek
        other "$B" --account "$T/theirs/own" init --key-file theirs/kek
        other ln -s "$A" theirs/link; other ln -s "$T" theirs/folder; other ln -s own theirs/mine
        for path in theirs/link theirs/folder/account "$T/theirs/link" theirs/../theirs/./link/../account; do
            for verb in list "delete d --yes" "key erase d --yes-erase d" "key revoke" serve "create e --size 1M"; do
                refused "belongs to uid 65534" "$B" --account "$path" $verb
            done
        done
        refused "belongs to uid 65534" "$B" --account theirs/folder/new init --key-file kek; test ! -e new
        # That user's own, root's links, and a link to a link of root's lead on.
        "$B" --account theirs/mine list; ln -s account rootlink; ln -s rootlink rootlink2
        "$B" --account rootlink2 list | grep -q d; (cd theirs; "$B" --account ../rootlink2 list | grep -q d)
        (cd account; "$B" --account . list | grep -q d); "$B" --account account/../account/ list | grep -q d
        "#,
    );
}

/// What root's list does not approve is refused before anything is made.
#[test]
fn a_quickstart_of_root_that_is_refused_makes_nothing_in_the_account() {
    as_root(
        r#"
        install -d -o 65534 -g 65534 -m 700 account; key kek; chown 65534 kek
        other "$B" --account "$A" init --key-command "cat $T/kek"
        before=$(find account | sort)
        refused "you have not approved it" sd quickstart
        test "$before" = "$(find account | sort)"
        "#,
    );
}

#[test]
fn verbs_of_root_leave_an_account_its_owners() {
    as_root(
        r#"
        install -d -o 65534 -g 65534 -m 700 account
        key kek; key next; head -c 1M /dev/urandom >image; chmod 600 image; cp image base; chmod 644 base
        sd init --key-fd 3 3<kek
        sd create d --size 1M --key-file kek
        # What root names is opened with root's rights.
        sd create over --base base --key-file kek
        sd import image copy --key-file kek
        sd export copy out.vhd --key-file kek
        cmp -n 1048576 image out.vhd
        test "$(stat -c %u:%a out.vhd)" = 0:600
        sd snapshot create d s --key-file kek
        sd key export d --layer 1 --out layer.key --yes-reveal --key-file kek
        test "$(stat -c %u layer.key)" = 0
        sd key rotate-data --all --key-file kek
        chown 65534 next
        sd key rotate-kek --key-file next --old-key-file kek --account-key
        # What account.toml names is opened as the owner.
        sd scrub d --wait
        sd key revoke; sd key restore
        sd verify d
        test -z "$(find account ! -user 65534 -o ! -group 65534)"
        # And so the owner can go on.
        other "$B" --account "$A" create mine --size 1M --key-file next
        serving other "$B" --account "$A" serve --key-file next
        sd create served --size 1M; sd list | grep -q served
        sd clone copy copy2 --full
        stop
        test -z "$(find account ! -user 65534)"
    "#,
    );
}

#[test]
fn root_copies_between_accounts_of_two_users() {
    as_root(
        r#"
        key kek; key kek2; sd init --key-file kek; head -c 1M /dev/urandom >image; sd import image d
        install -d -o 65534 -m 700 theirs
        "$B" --account theirs init --key-fd 3 3<kek2
        sd clone d d --full --into theirs --into-key-file kek2
        sd clone d e --full --into theirs --into-key-command "cat $T/kek2"
        "$B" --account theirs export e out --to raw --key-file kek2; cmp image out
        test -z "$(find theirs ! -user 65534)"; test -z "$(find account ! -user 0)"
    "#,
    );
}

/// What root can read its owner may not: an account under such a key would open for root alone.
#[test]
fn root_gives_an_account_of_another_user_no_key_that_its_owner_does_not_get() {
    as_root(
        r#"
        install -d -o 65534 -g 65534 -m 700 account svc; key rootkey; key svc/kek; key svc/next; chown 65534:65534 svc/*
        mine() { other "$B" --account "$A" "$@"; }
        command="cat $T/svc/next"
        # Of an account that is being made nothing stays.
        refused "the owner of the account (uid 65534) does not get the key" sd init --key-file rootkey
        grep -q "chown 65534" said && grep -q "sudo -u '#65534'" said
        refused "uid 65534, who has not approved this key command" sd init --key-command "$command"
        refused "hint: nothing was changed" sd init
        test -z "$(ls account)"; test ! -e home/config
        mine init --key-file svc/kek; mine create d --size 1M
        refusals() {
            local before; before=$(sha256sum account/account.toml)
            refused "does not get the key" sd key rotate-kek --key-file rootkey
            refused "has not approved this key command" sd key rotate-kek --key-command "$command"
            refused "has not approved this key command" sd key rotate-kek --key-command-shell "$command"
            test "$before" = "$(sha256sum account/account.toml)"; test ! -e home/config
        }
        refusals
        # The file that is made lies beside the present one, and is the owner's; so at rest as while served.
        sd key rotate-kek 2>said; grep -q "a new key was made in $T/svc/" said
        made=$(echo svc/*.2.key); test "$(stat -c %u:%g:%a "$made")" = 65534:65534:600
        mine show d >shown
        serving mine serve
        refusals
        sd key rotate-kek; stop; mine list | grep -q d
        serving mine serve; stop
        # The manager of the owner's service gives it the credential of this name.
        CREDENTIALS_DIRECTORY=$T sd key rotate-kek --key-credential rootkey; CREDENTIALS_DIRECTORY=$T sd list | grep -q d
        install -o 65534 -g 65534 -m 600 rootkey svc/rootkey; CREDENTIALS_DIRECTORY=$T/svc mine list | grep -q d
        # The owner's file, root's file for a group of the owner, and what is given anew each time are taken.
        CREDENTIALS_DIRECTORY=$T sd key rotate-kek --key-file svc/next; mine list | grep -q d
        (umask 077; head -c 32 /dev/urandom >grouped); chown 0:65534 grouped; chmod 640 grouped
        sd key rotate-kek --key-file grouped; mine list | grep -q d
        # Beside root's file the owner makes none.
        refused "hint: nothing was changed" sd key rotate-kek
        sd key rotate-kek --passphrase-fd 3 3<<<"a passphrase"; mine list --passphrase-fd 3 3<<<"a passphrase" | grep -q d
        sd key rotate-kek --key-fd 3 --old-passphrase-fd 4 3<rootkey 4<<<"a passphrase"; sd list --key-file rootkey | grep -q d
        "#,
    );
}

#[test]
fn root_reads_for_an_owner_no_more_than_the_owner_may() {
    let said = as_root(
        r#"
        install -d -o 65534 -m 700 account; key kek; chown 65534 kek; sd init --key-file kek
        # The account names a key file that has become root's own; named by root itself it serves.
        chown 0 kek
        refused "Permission denied" sd create d --size 1M
        grep -q "name it yourself" said
        sd create d --size 1M --key-file kek
        sd status 2>&1
    "#,
    );
    assert!(said.contains("the account is locked"), "{said}");
}

#[test]
fn a_server_that_root_starts_is_the_owners() {
    as_root(
        r#"
        install -d -o 65534 -m 700 account; key kek; sd init --key-fd 3 3<kek
        serving sd serve --key-file kek
        test "$(awk '/^Uid/ { print $2, $3, $4, $5 }' /proc/$S/status)" = "65534 65534 65534 65534"
        test "$(awk '/^Gid/ { print $2, $3, $4, $5 }' /proc/$S/status)" = "65534 65534 65534 65534"
        test "$(cat /proc/$S/task/*/status 2>/dev/null | awk '/^Uid/ { print $2 }' | sort -u)" = 65534
        test "$(awk '/^CapEff/ { print $2 }' /proc/$S/status)" = 0000000000000000
        test "$(stat -c %u:%a account/nbd.sock)" = 65534:600
        sd create d --size 1M; sd status | grep -q d
        stop
        test -z "$(find account ! -user 65534)"
    "#,
    );
}

#[test]
fn root_without_the_right_to_become_the_owner_is_told_what_to_do() {
    as_root(
        r#"
        install -d -o 65534 -m 700 account; key kek; sd init --key-fd 3 3<kek
        refused "root cannot become the owner of the account (uid 65534)" \
            setpriv --bounding-set -setuid,-setgid "$B" --account "$A" create d --size 1M --key-file kek
        grep -qF 'start it with `-u 65534`' said
    "#,
    );
}

/// Root becomes the owner to reach the account; the lines name root all the same, and the owner where the owner asks.
#[test]
fn the_audit_log_names_the_user_who_asked_and_not_the_owner() {
    as_root(
        r#"
        install -d -o 65534 -g 65534 -m 700 account logs; key kek; key theirs; cp kek theirs; chown 65534 theirs
        export SEALDISK_AUDIT_LOG=$T/logs/audit.log
        sd init --key-fd 3 3<kek
        asked() { tail -n 1 logs/audit.log >last; grep -q "\"on\":\"$2\"" last && grep -q "\"uid\":$1," last || { cat last; exit 1; }; }
        sd create rest --size 1M --key-file kek; asked 0 rest
        other "$B" --account "$A" create own --size 1M --key-file theirs; asked 65534 own
        serving other "$B" --account "$A" serve --key-file theirs
        sd create served --size 1M; asked 0 served
        other "$B" --account "$A" create own2 --size 1M; asked 65534 own2
        grep 'on="served"' log | grep -q 'uid=0 '
        grep 'on="own2"' log | grep -q 'uid=65534 '
        stop
        serving sd serve --key-file kek
        sd delete served --yes; asked 0 served
        stop
        "$B" --account "$A" audit --log logs/audit.log --key-file kek
    "#,
    );
}
