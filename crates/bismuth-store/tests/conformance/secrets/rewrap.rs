//! Changed, lost and wrong master keys.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bismuth_store::secrets::{Flaw, KeyringError, Rewrapped, SecretError, Secrets};

use super::{Keys, assert_read, flaw, key, new, read, set};
use crate::test_engines::{TestEngines, join};

async fn rewrapped(secrets: &Secrets) -> (u64, String) {
    let Rewrapped { groups, master_key } = secrets.rewrap().await.unwrap();
    (groups, master_key)
}

pub async fn secrets_are_read_and_written_while_their_keys_are_sealed_anew(
    engines: &mut dyn TestEngines,
) {
    let (keys, secrets) = new(engines);
    assert_eq!(rewrapped(&secrets).await, (0, "first".into()));
    for group in ["a", "b", "c"] {
        set(&secrets, group, "name", group).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let tasks = ["a", "b", "c"].map(|group| {
        let (secrets, done) = (Arc::clone(&secrets), Arc::clone(&done));
        tokio::spawn(async move {
            let mut turns = 0;
            while !done.load(Ordering::SeqCst) || turns < 3 {
                assert_read(&secrets, group, "name", group, 1).await;
                // A group that has its data key made anew every time.
                let passing = format!("{group}-passing");
                set(&secrets, &passing, "name", "value").await;
                assert!(read(&secrets, &passing, "name").await.is_some());
                secrets.delete(&passing, &key("name")).await.unwrap();
                turns += 1;
            }
        })
    });
    for [old, new] in [
        ["first", "second"],
        ["second", "third"],
        ["third", "fourth"],
    ] {
        keys.write(&[new, old]);
        let (groups, current) = rewrapped(&secrets).await;
        assert!(groups >= 3, "{groups} groups");
        assert_eq!(current, new);
        assert_eq!(rewrapped(&secrets).await, (0, new.into()));
        keys.write(&[new]);
    }
    done.store(true, Ordering::SeqCst);
    join(tasks.into_iter()).await;
    let restarted = keys.secrets(engines.records());
    for group in ["a", "b", "c"] {
        assert_read(&restarted, group, "name", group, 1).await;
    }
}

pub async fn a_key_that_another_node_uses_first_is_looked_for_in_the_file(
    engines: &mut dyn TestEngines,
) {
    let (keys, one) = new(engines);
    let other = keys.secrets(engines.others());
    set(&one, "group", "name", "value").await;
    keys.write(&["second", "first"]);
    assert_eq!(rewrapped(&one).await, (1, "second".into()));
    assert!(read(&other, "group", "name").await.is_some());
    set(&other, "new", "name", "value").await;
    assert_eq!(rewrapped(&other).await, (0, "second".into()));
}

pub async fn a_missing_master_key_is_named_and_breaks_its_groups_only(
    engines: &mut dyn TestEngines,
) {
    let keys = Keys::new();
    set(&keys.secrets(engines.records()), "old", "name", "value").await;
    keys.write(&["second"]);
    let secrets = keys.secrets(engines.records());
    set(&secrets, "new", "name", "value").await;
    let error = secrets.get("old", "name", None).await.unwrap_err();
    assert!(matches!(&error, SecretError::UnknownMasterKey { id, .. } if id == "first"));
    let said = error.to_string();
    let file = keys.path().display().to_string();
    assert!(said.contains("first") && said.contains(&file), "{said}");
    assert!(secrets.set("old", &key("other"), b"value").await.is_err());

    keys.write(&["third", "second"]);
    let error = secrets.rewrap().await.unwrap_err();
    let one_failed = matches!(&error, SecretError::NotRewrapped { failed: 1, .. });
    assert!(one_failed && error.to_string().contains("first"), "{error}");
    assert!(read(&secrets, "new", "name").await.is_some());

    // The line is back, and nobody has to say so.
    keys.write(&["third", "second", "first"]);
    assert!(read(&secrets, "old", "name").await.is_some());
    assert_eq!(rewrapped(&secrets).await, (1, "third".into()));
}

pub async fn another_key_under_the_same_id_opens_nothing(engines: &mut dyn TestEngines) {
    let keys = Keys::new();
    set(&keys.secrets(engines.records()), "group", "name", "value").await;
    keys.write(&["first:another"]);
    let secrets = keys.secrets(engines.records());
    let master_key = "first".into();
    let expected = Flaw::DataKey { master_key };
    assert_eq!(flaw(&secrets, "group", "name").await, expected);
    assert!(secrets.rewrap().await.is_err());
    // Nothing was made worse.
    keys.write(&["first"]);
    let secrets = keys.secrets(engines.records());
    assert!(read(&secrets, "group", "name").await.is_some());
}

pub async fn a_file_that_cannot_be_used_changes_nothing(engines: &mut dyn TestEngines) {
    let (keys, secrets) = new(engines);
    set(&secrets, "group", "name", "value").await;
    keys.write(&["second", "first"]);
    let mode = |mode| fs::set_permissions(keys.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let error = secrets.rewrap().await.unwrap_err();
    let exposed = matches!(&error, SecretError::Keyring(KeyringError::Exposed { .. }));
    assert!(exposed, "{error}");
    assert!(read(&secrets, "group", "name").await.is_some());
    set(&secrets, "new", "name", "value").await;
    mode(0o600);
    assert_eq!(rewrapped(&secrets).await, (2, "second".into()));
}
