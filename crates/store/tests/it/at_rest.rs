//! Nothing that went in can be read in the files.

use std::{fs, path::Path};

use testudo_model::TenantName;
use testudo_store::{Expected, LogEntry, Record, Store, StoreError};
use testudo_trust::{base64url, hex};

use crate::fixture::{Account, Line, line, open_folder, root_key};

const SECRETS: [&str; 10] = [
    "tenant-of-the-bank",
    "margarethe.schwarzkopf",
    "margarethe@schwarzkopf.example",
    "secret/payments/stripe",
    "sk_live_3XampleT0ken",
    "/var/lib/payments/key.pem",
    "correct horse battery staple",
    "invoice-sequence",
    "administrators",
    "the-night-shift",
];

#[test]
fn no_name_and_no_value_is_in_any_file_in_any_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_folder(folder.path()).unwrap();
    use_everything(&store);
    assert_nothing_readable(folder.path());
    drop(store);
    assert_nothing_readable(folder.path());
    // The same in a second life, with the write-ahead log copied into the database.
    let store = open_folder(folder.path()).unwrap();
    store.rotate().unwrap();
    while store.reseal_step(100).unwrap() > 0 {}
    assert_nothing_readable(folder.path());
}

#[test]
fn the_search_would_find_what_is_readable() {
    for secret in SECRETS {
        for shift in 0..3 {
            let text = format!("{}{secret}!", "x".repeat(shift));
            let base64 = base64url::encode(text.as_bytes());
            for file in [
                text.clone(),
                hex::encode(text.as_bytes()),
                base64.clone(),
                to_standard(&base64),
            ] {
                assert!(
                    is_readable(secret, format!("...{file}...").as_bytes()),
                    "{file}"
                );
            }
        }
        assert!(!is_readable(secret, b"nothing of that kind"));
    }
}

#[test]
fn errors_do_not_repeat_keys_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_folder(folder.path()).unwrap();
    let records = store.tenant(&SECRETS[0].parse::<TenantName>().unwrap());
    records
        .put(Expected::Absent, &Account::named(SECRETS[1]))
        .unwrap();
    let conflict = records
        .put(Expected::Absent, &Account::named(SECRETS[1]))
        .unwrap_err();
    let too_large = records
        .get::<Account>(&SECRETS[1].repeat(1_000))
        .unwrap_err();
    assert!(matches!(conflict, StoreError::Conflict { .. }));
    for error in [conflict, too_large] {
        let said = format!("{error} {error:?}");
        assert!(
            SECRETS.iter().all(|secret| !said.contains(secret)),
            "{said}"
        );
    }
}

#[cfg(unix)]
#[test]
fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let store = open_folder(&folder).unwrap();
    use_everything(&store);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert_eq!(
        files.len(),
        4,
        "database, write-ahead log, its index, lock: {files:?}"
    );
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}

#[test]
fn the_write_ahead_log_is_copied_back_before_it_grows_long() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_folder(folder.path()).unwrap();
    let records = store.tenant(&TenantName::default_tenant());
    for number in 0..60 {
        let fat = Account::named(&number.to_string()).with_mail(&"x".repeat(400_000));
        records.put(Expected::Absent, &fat).unwrap();
        assert_eq!(records.list::<Account>(None, 1).unwrap().items.len(), 1);
    }
    let length = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
    assert!(length("store.db") > 20_000_000, "{}", length("store.db"));
    assert!(
        length("store.db-wal") < 8_000_000,
        "{}",
        length("store.db-wal")
    );
}

fn use_everything(store: &Store) {
    let records = store.tenant(&SECRETS[0].parse::<TenantName>().unwrap());
    let account = Account::named(SECRETS[1])
        .with_mail(SECRETS[2])
        .in_groups(&[SECRETS[8], SECRETS[9]]);
    records.put(Expected::Absent, &account).unwrap();
    records
        .put(Expected::Any, &account.clone().with_mail(SECRETS[6]))
        .unwrap();
    records
        .put(
            Expected::Absent,
            &Account::named(SECRETS[3]).with_mail(SECRETS[4]),
        )
        .unwrap();
    records
        .append(&[line(SECRETS[5]), line(SECRETS[6])])
        .unwrap();
    records.next_sequence(SECRETS[7]).unwrap();
    records
        .delete::<Account>(Expected::Any, SECRETS[3])
        .unwrap();
    let refused = records
        .transaction()
        .put(Expected::Any, &Account::named(SECRETS[6]))
        .put(Expected::Absent, &Account::named(SECRETS[1]))
        .commit();
    assert!(refused.is_err());
    assert_eq!(
        records.find::<Account>("group", SECRETS[8]).unwrap().len(),
        1
    );
}

fn assert_nothing_readable(folder: &Path) {
    let mut searched = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        searched += bytes.len();
        let names = [
            Account::COLLECTION,
            Line::LOG,
            "store.sequence",
            "group",
            "mail",
        ];
        for secret in SECRETS.into_iter().chain(names) {
            assert!(
                !is_readable(secret, &bytes),
                "{secret} is readable in {}",
                path.display()
            );
        }
        let root_key = root_key();
        assert!(
            !contains(&bytes, root_key.expose_bytes()),
            "the root key is in {}",
            path.display()
        );
    }
    assert!(searched > 10_000, "there was something to search");
}

/// Whether `bytes` hold `secret` raw, as hex or as base64 at any alignment.
fn is_readable(secret: &str, bytes: &[u8]) -> bool {
    let hex = hex::encode(secret.as_bytes());
    let mut forms = vec![secret.to_owned(), hex.to_uppercase(), hex];
    for shift in 0..3 {
        let base64 = base64url::encode(format!("{}{secret}", "x".repeat(shift)).as_bytes());
        // Characters that hold bits of the secret alone.
        let whole = base64
            .get((shift * 8).div_ceil(6)..(shift + secret.len()) * 8 / 6)
            .unwrap();
        forms.push(whole.to_owned());
        forms.push(to_standard(whole));
    }
    forms.iter().any(|form| contains(bytes, form.as_bytes()))
}

fn to_standard(base64url: &str) -> String {
    base64url.replace('-', "+").replace('_', "/")
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
