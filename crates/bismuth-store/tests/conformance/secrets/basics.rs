//! Writing, reading, listing and removing secrets.

use bismuth_store::records::{Keyspace, Usage, now_ms};
use bismuth_store::secrets::{MAX_SECRETS, MAX_VALUE_BYTES, SecretError, StoredSecret};

use super::{assert_read, key, new, read, read_version, set};
use crate::test_engines::TestEngines;

pub async fn a_secret_is_read_back_with_its_version_and_the_one_before(
    engines: &mut dyn TestEngines,
) {
    let (_keys, secrets) = new(engines);
    let stored = secrets.set("group", &key("name"), b"one").await.unwrap();
    let (version, created) = (1, true);
    assert_eq!(stored, StoredSecret { version, created });
    assert_read(&secrets, "group", "name", "one", 1).await;
    let rotated = secrets.rotate("group", &key("name"), b"two").await;
    assert_eq!(rotated.unwrap(), 2);
    assert_eq!(read_version(&secrets, "name", 1).await.unwrap(), "one");

    let stored = secrets.set("group", &key("name"), b"three").await.unwrap();
    let (version, created) = (3, false);
    assert_eq!(stored, StoredSecret { version, created });
    assert_read(&secrets, "group", "name", "three", 3).await;
    assert_eq!(read_version(&secrets, "name", 3).await.unwrap(), "three");
    assert_eq!(read_version(&secrets, "name", 2).await.unwrap(), "two");
    for version in [0, 1, 4, u64::MAX] {
        assert_eq!(read_version(&secrets, "name", version).await, None);
    }
}

pub async fn only_what_is_there_is_rotated_or_deleted(engines: &mut dyn TestEngines) {
    let (_keys, secrets) = new(engines);
    let none = key("none");
    for with_another in [false, true] {
        let rotated = secrets.rotate("group", &none, b"value").await;
        assert!(matches!(rotated, Err(SecretError::NotFound)), "{rotated:?}");
        let deleted = secrets.delete("group", &none).await;
        assert!(matches!(deleted, Err(SecretError::NotFound)), "{deleted:?}");
        assert_eq!(read(&secrets, "group", "none").await, None);
        if !with_another {
            set(&secrets, "group", "another", "value").await;
        }
    }
    secrets.delete("group", &key("another")).await.unwrap();
    assert_eq!(read(&secrets, "group", "another").await, None);
    // One that is made anew is another secret.
    assert_eq!(set(&secrets, "group", "another", "value").await, 1);
}

pub async fn values_of_every_length_that_is_allowed_are_kept_and_no_other(
    engines: &mut dyn TestEngines,
) {
    let (_keys, secrets) = new(engines);
    let name = key("name");
    for bytes in [1, 1000, MAX_VALUE_BYTES, MAX_VALUE_BYTES, 2] {
        let value: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
        secrets.set("group", &name, &value).await.unwrap();
        let secret = secrets.get("group", "name", None).await.unwrap().unwrap();
        assert!(*secret.value == value, "a value of {bytes} bytes");
    }
    for bytes in [0, MAX_VALUE_BYTES + 1] {
        let error = secrets.set("group", &name, &vec![7; bytes]).await;
        assert!(matches!(error, Err(SecretError::Size { bytes: its }) if its == bytes));
    }
    let secret = secrets.get("group", "name", None).await.unwrap().unwrap();
    assert_eq!(secret.version, 5);
}

pub async fn secrets_are_listed_by_name_without_their_values(engines: &mut dyn TestEngines) {
    let (_keys, secrets) = new(engines);
    assert_eq!(secrets.list("group").await.unwrap(), []);
    for name in ["b", "a/b", "c"] {
        set(&secrets, "group", name, "value").await;
    }
    set(&secrets, "group", "b", "value").await;
    secrets.delete("group", &key("c")).await.unwrap();
    let listed = secrets.list("group").await.unwrap();
    let versions = listed.iter().map(|it| (&*it.name, it.version));
    assert_eq!(versions.collect::<Vec<_>>(), [("a/b", 1), ("b", 2)]);
    for listed in listed {
        assert!(listed.modified_ms.abs_diff(now_ms()) < 60_000);
    }
}

pub async fn groups_do_not_see_each_other_s_secrets(engines: &mut dyn TestEngines) {
    let (_keys, secrets) = new(engines);
    set(&secrets, "a", "name", "of a").await;
    assert_eq!(read(&secrets, "b", "name").await, None);
    set(&secrets, "b", "name", "of b").await;
    set(&secrets, "b", "name", "of b again").await;
    assert_read(&secrets, "a", "name", "of a", 1).await;
    secrets.delete("b", &key("name")).await.unwrap();
    assert_read(&secrets, "a", "name", "of a", 1).await;
}

pub async fn names_of_any_text_are_kept_apart(engines: &mut dyn TestEngines) {
    let (_keys, secrets) = new(engines);
    let long = "ä".repeat(256);
    let names = [
        "m", "v", "v/m", "m/v", "current", "v/v/m", "a", "a/1", "A", "ä", &long,
    ];
    for name in names {
        set(&secrets, "group", name, name).await;
    }
    for name in names {
        assert_read(&secrets, "group", name, name, 1).await;
    }
    for none in ["", "v/", "/m", "m\0"] {
        assert_eq!(read(&secrets, "group", none).await, None, "{none:?}");
    }
}

pub async fn secrets_are_there_after_reopening(engines: &mut dyn TestEngines) {
    let (keys, secrets) = new(engines);
    set(&secrets, "group", "name", "one").await;
    set(&secrets, "group", "name", "two").await;
    drop(secrets);
    engines.reopen().await;
    let secrets = keys.secrets(engines.records());
    assert_read(&secrets, "group", "name", "two", 2).await;
    assert_eq!(read_version(&secrets, "name", 1).await.unwrap(), "one");
}

pub async fn the_last_secret_takes_everything_of_its_group_with_it(engines: &mut dyn TestEngines) {
    let (records, (_keys, secrets)) = (engines.records(), new(engines));
    for name in ["a", "b"] {
        set(&secrets, "group", name, "value").await;
    }
    for name in ["a", "b"] {
        secrets.delete("group", &key(name)).await.unwrap();
    }
    for keyspace in [Keyspace::Secret, Keyspace::DataKey] {
        let used = records.usage("group", keyspace).await.unwrap();
        assert_eq!(used, Usage::default());
        assert!(records.groups(keyspace).await.unwrap().is_empty());
    }
    assert_eq!(secrets.list("group").await.unwrap(), []);
}

pub async fn a_purge_removes_one_group_and_leaves_the_others(engines: &mut dyn TestEngines) {
    let (records, (_keys, secrets)) = (engines.records(), new(engines));
    for group in ["group", "other"] {
        for name in ["a", "b", "c"] {
            set(&secrets, group, name, "value").await;
        }
    }
    assert_eq!(secrets.purge("group").await.unwrap(), 3);
    assert_eq!(secrets.purge("group").await.unwrap(), 0);
    assert_eq!(read(&secrets, "group", "a").await, None);
    assert_eq!(records.groups(Keyspace::Secret).await.unwrap(), ["other"]);
    assert_eq!(records.groups(Keyspace::DataKey).await.unwrap(), ["other"]);
    assert_eq!(secrets.list("other").await.unwrap().len(), 3);
    assert_eq!(set(&secrets, "group", "a", "value").await, 1);
}

pub async fn a_group_has_as_many_secrets_as_it_may(engines: &mut dyn TestEngines) {
    let (_keys, secrets) = new(engines);
    for n in 0..MAX_SECRETS {
        set(&secrets, "group", &format!("secret-{n}"), "value").await;
    }
    let more = secrets.set("group", &key("more"), b"value").await;
    assert!(matches!(more, Err(SecretError::TooMany)), "{more:?}");
    assert_eq!(set(&secrets, "group", "secret-7", "another").await, 2);
    assert_eq!(secrets.list("group").await.unwrap().len(), MAX_SECRETS);
    assert_eq!(secrets.purge("group").await.unwrap(), MAX_SECRETS as u64);
}

pub async fn a_revision_names_one_value_for_ever(engines: &mut dyn TestEngines) {
    let (_keys, secrets) = new(engines);
    let mut values = std::collections::BTreeMap::new();
    let look = async |version| {
        let secret = secrets.get("group", "name", version).await.unwrap();
        secret.map(|secret| (secret.revision, secret.value.to_vec()))
    };
    let name = key("name");
    for round in ["a", "b"] {
        for n in 1..=3 {
            let value = format!("{round}{n}");
            assert_eq!(set(&secrets, "group", "name", &value).await, n);
            for version in [None, Some(n), Some(n - 1)] {
                let Some((revision, value)) = look(version).await else {
                    continue;
                };
                let known = values.entry(revision).or_insert_with(|| value.clone());
                assert_eq!(*known, value, "{revision:?}");
            }
        }
        secrets.delete("group", &name).await.unwrap();
    }
    assert_eq!(look(None).await, None);
    // Three current ones and two earlier ones in each round.
    assert_eq!(values.len(), 10);
}
