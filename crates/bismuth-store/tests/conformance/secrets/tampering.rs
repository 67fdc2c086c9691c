//! Tampered records are refused: who can write to the engine, and has no master key, cannot change a secret. The keys of records and what is in
//! them are spelled out here, because they are what is stored.

use std::sync::Arc;

use bismuth_store::records::{EngineError, Keyspace, RecordKey, Records};
use bismuth_store::secrets::{Flaw, SecretError, SecretStore, Secrets};
use bytes::Bytes;

use super::{Keys, assert_broken, flaw, key, new, read, set};
use crate::test_engines::{TestEngines, WriteExt, delete, made, put, record_key};

fn record(group: &str, name: &str) -> RecordKey {
    record_key(group, Keyspace::Secret, &format!("v/{name}"))
}

fn manifest(group: &str) -> RecordKey {
    record_key(group, Keyspace::Secret, "m")
}

fn data_key(group: &str) -> RecordKey {
    record_key(group, Keyspace::DataKey, "current")
}

async fn stored(records: &Arc<dyn Records>, record_key: &RecordKey) -> Bytes {
    records.get(record_key).await.unwrap().unwrap().value
}

async fn plant(records: &Arc<dyn Records>, record_key: &RecordKey, value: impl Into<Bytes>) {
    let write = put(&record_key.key, value).of(&record_key.group, record_key.keyspace);
    made(records, write).await;
}

async fn remove(records: &Arc<dyn Records>, record_key: &RecordKey) {
    let write = delete(&record_key.key).of(&record_key.group, record_key.keyspace);
    made(records, write).await;
}

/// Two secrets, of which the second had another value before.
async fn two(engines: &dyn TestEngines) -> (Keys, Arc<Secrets>, Arc<dyn Records>) {
    let (keys, secrets) = new(engines);
    set(&secrets, "group", "a", "the value of a").await;
    set(&secrets, "group", "b", "an older value").await;
    set(&secrets, "group", "b", "the value of b").await;
    (keys, secrets, engines.records())
}

fn changed(name: &str) -> Flaw {
    Flaw::Changed { name: name.into() }
}

async fn is_whole(secrets: &Secrets, name: &str) {
    let (value, _) = read(secrets, "group", name).await.unwrap();
    assert_eq!(value, format!("the value of {name}"));
}

pub async fn swapped_records_are_refused(engines: &mut dyn TestEngines) {
    let (_keys, secrets, records) = two(engines).await;
    let (a, b) = (record("group", "a"), record("group", "b"));
    let of = (stored(&records, &a).await, stored(&records, &b).await);
    plant(&records, &a, of.1.clone()).await;
    assert_eq!(flaw(&secrets, "group", "a").await, changed("a"));
    is_whole(&secrets, "b").await;
    plant(&records, &b, of.0.clone()).await;
    assert_eq!(flaw(&secrets, "group", "b").await, changed("b"));
    // And are what they were when they are back.
    plant(&records, &a, of.0).await;
    plant(&records, &b, of.1).await;
    is_whole(&secrets, "a").await;
    is_whole(&secrets, "b").await;
}

pub async fn an_older_record_that_was_put_back_is_refused(engines: &mut dyn TestEngines) {
    let (_keys, secrets, records) = two(engines).await;
    let a = record("group", "a");
    let older = stored(&records, &a).await;
    set(&secrets, "group", "a", "the next value").await;
    plant(&records, &a, older.clone()).await;
    assert_eq!(flaw(&secrets, "group", "a").await, changed("a"));
    is_whole(&secrets, "b").await;
    // Also one of a secret that was deleted and made anew, with the same name and version.
    secrets.delete("group", &key("a")).await.unwrap();
    assert_eq!(set(&secrets, "group", "a", "another secret").await, 1);
    plant(&records, &a, older).await;
    assert_eq!(flaw(&secrets, "group", "a").await, changed("a"));
}

pub async fn an_older_manifest_that_was_put_back_is_refused(engines: &mut dyn TestEngines) {
    let (_keys, secrets, records) = two(engines).await;
    let older = stored(&records, &manifest("group")).await;
    set(&secrets, "group", "b", "the next value").await;
    set(&secrets, "group", "c", "the value of c").await;
    plant(&records, &manifest("group"), older.clone()).await;
    assert_eq!(flaw(&secrets, "group", "b").await, changed("b"));
    let added = Flaw::Added { name: "c".into() };
    assert_eq!(flaw(&secrets, "group", "c").await, added);
    // Also with the group's next data key.
    secrets.purge("group").await.unwrap();
    set(&secrets, "group", "a", "the value of a").await;
    plant(&records, &manifest("group"), older).await;
    assert_eq!(flaw(&secrets, "group", "a").await, Flaw::Manifest);
}

pub async fn a_flipped_bit_is_refused_wherever_it_is(engines: &mut dyn TestEngines) {
    let (_keys, secrets, records) = two(engines).await;
    for record_key in [record("group", "b"), manifest("group"), data_key("group")] {
        let whole = stored(&records, &record_key).await;
        // Every byte of the head, and each part of the rest.
        for at in (0..whole.len()).filter(|at| at % 7 == 0 || *at < 40) {
            let mut edited = whole.to_vec();
            edited[at] ^= 1;
            plant(&records, &record_key, edited).await;
            for version in [None, Some(1)] {
                let read = secrets.get("group", "b", version).await;
                let refused = matches!(
                    read,
                    Err(SecretError::Broken { .. } | SecretError::UnknownMasterKey { .. })
                );
                assert!(refused, "byte {at} of {record_key:?}: {read:?}");
            }
        }
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            plant(&records, &record_key, whole.slice(..cut)).await;
            let read = secrets.get("group", "b", None).await;
            assert!(read.is_err(), "{cut} bytes of {record_key:?}: {read:?}");
        }
        plant(&records, &record_key, whole).await;
        is_whole(&secrets, "b").await;
    }
}

pub async fn a_removed_record_is_refused_and_not_said_to_be_missing(engines: &mut dyn TestEngines) {
    let (_keys, secrets, records) = two(engines).await;
    remove(&records, &record("group", "a")).await;
    let removed = Flaw::Removed { name: "a".into() };
    assert_eq!(flaw(&secrets, "group", "a").await, removed);
    assert_broken(secrets.rotate("group", &key("a"), b"value").await);
    is_whole(&secrets, "b").await;
    // A function is told that the store is broken, by the engine's kind of error.
    let store: Arc<dyn SecretStore> = secrets.clone();
    let told = store.get("group", "a", None).await.unwrap_err();
    assert!(matches!(told, EngineError::Broken { .. }), "{told}");

    let whole = stored(&records, &manifest("group")).await;
    remove(&records, &manifest("group")).await;
    for name in ["a", "b", "none"] {
        assert_eq!(flaw(&secrets, "group", name).await, Flaw::NoManifest);
    }
    plant(&records, &manifest("group"), whole).await;
    remove(&records, &data_key("group")).await;
    for name in ["a", "b", "none"] {
        assert_eq!(flaw(&secrets, "group", name).await, Flaw::NoDataKey);
    }
    assert_broken(secrets.set("group", &key("c"), b"value").await);
}

pub async fn an_added_record_is_refused(engines: &mut dyn TestEngines) {
    let (_keys, secrets, records) = two(engines).await;
    let of_b = stored(&records, &record("group", "b")).await;
    for group in ["group", "without any"] {
        plant(&records, &record(group, "c"), of_b.clone()).await;
        let added = Flaw::Added { name: "c".into() };
        assert_eq!(flaw(&secrets, group, "c").await, added);
        assert_broken(secrets.set(group, &key("c"), b"value").await);
    }
    is_whole(&secrets, "b").await;
}

pub async fn the_records_of_another_group_are_refused(engines: &mut dyn TestEngines) {
    let (_keys, secrets, records) = two(engines).await;
    set(&secrets, "other", "a", "the other's value").await;
    set(&secrets, "other", "b", "the other's value").await;
    // One record of it, its manifest too, everything of it.
    let copies: [fn(&str) -> RecordKey; 3] = [|group| record(group, "a"), manifest, data_key];
    let master_key = "first".to_owned();
    let of_its_key = Flaw::DataKey { master_key };
    let flaws = [changed("a"), Flaw::Manifest, of_its_key.clone()];
    for (copy, expected) in copies.into_iter().zip(flaws) {
        let theirs = stored(&records, &copy("group")).await;
        plant(&records, &copy("other"), theirs).await;
        assert_eq!(flaw(&secrets, "other", "a").await, expected);
    }
    // Into a group that has nothing.
    for copy in copies {
        let theirs = stored(&records, &copy("group")).await;
        plant(&records, &copy("new"), theirs).await;
    }
    assert_eq!(flaw(&secrets, "new", "a").await, of_its_key);
    is_whole(&secrets, "a").await;
}

pub async fn deleting_repairs_a_record_and_purging_a_group(engines: &mut dyn TestEngines) {
    let (_keys, secrets, records) = two(engines).await;
    set(&secrets, "group", "c", "the value of c").await;
    plant(&records, &record("group", "a"), "edited").await;
    remove(&records, &record("group", "b")).await;
    plant(&records, &record("group", "d"), "added").await;
    for name in ["a", "b", "d"] {
        assert!(secrets.get("group", name, None).await.is_err());
        secrets.delete("group", &key(name)).await.unwrap();
        assert_eq!(read(&secrets, "group", name).await, None);
    }
    is_whole(&secrets, "c").await;
    assert_eq!(set(&secrets, "group", "a", "the value of a").await, 1);
    is_whole(&secrets, "a").await;

    plant(&records, &manifest("group"), "edited").await;
    assert_broken(secrets.delete("group", &key("a")).await);
    assert_eq!(secrets.purge("group").await.unwrap(), 2);
    assert_eq!(set(&secrets, "group", "a", "the value of a").await, 1);
    is_whole(&secrets, "a").await;
}
