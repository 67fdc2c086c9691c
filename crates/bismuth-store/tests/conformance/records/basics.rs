//! Reading and changing single records.

use bismuth_store::records::{Change, Condition, Keyspace, Refused, Usage, now_ms};
use bytes::Bytes;

use crate::test_engines::{
    TestEngines, WriteExt, add, at, delete, get, made, one_of, put, put_for, record_key, refused,
    usage, value, write,
};

pub async fn a_record_is_read_back_with_its_metadata(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let change = Change::Put {
        value: "value".into(),
        content_type: Some("text/plain".into()),
        ttl_ms: Some(3_600_000),
        charge: 77,
    };
    let written = made(&records, write("key", change)).await;
    assert_eq!((&written.before, written.sum), (&None, None));
    let record = get(&records, "key").await.unwrap();
    assert_eq!(record.value, "value");
    assert_eq!(record.meta.revision, written.revision);
    assert_eq!(record.meta.content_type.as_deref(), Some("text/plain"));
    let written_ms = written.modified_ms;
    assert_eq!(record.meta.modified_ms, written_ms);
    assert_eq!(record.meta.expires_ms, Some(written_ms + 3_600_000));
    assert_eq!(record.meta.charge, 77);
    // Clocks of one machine differ by nothing, and a minute is no accident.
    assert!(record.meta.modified_ms.abs_diff(now_ms()) < 60_000);

    let again = made(&records, put("key", "other")).await;
    assert_eq!(again.before, Some(record.meta));
    let meta = get(&records, "key").await.unwrap().meta;
    assert_eq!((meta.content_type, meta.expires_ms), (None, None));
}

pub async fn a_large_value_is_read_back_and_may_become_small_and_large_again(
    engines: &mut dyn TestEngines,
) {
    let records = engines.records();
    for size in [1 << 20, 0, 1024, 1025, 3, 70_000] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        made(&records, put("key", bytes.clone())).await;
        let record = get(&records, "key").await.unwrap();
        assert!(record.value == bytes, "a value of {size} bytes");
    }
    let deleted = made(&records, delete("key")).await;
    assert_eq!(deleted.before.unwrap().charge, 70_003);
    assert_eq!(get(&records, "key").await, None);
    made(&records, put("key", "anew")).await;
    assert_eq!(value(&records, "key").await.unwrap(), "anew");
}

pub async fn what_is_missing_is_none_and_cannot_be_deleted(engines: &mut dyn TestEngines) {
    let records = engines.records();
    assert_eq!(get(&records, "key").await, None);
    assert_eq!(refused(&records, delete("key")).await, Refused::NotFound);
    made(&records, put("key", "")).await;
    made(&records, delete("key")).await;
    assert_eq!(get(&records, "key").await, None);
    assert_eq!(refused(&records, delete("key")).await, Refused::NotFound);
}

pub async fn groups_and_keyspaces_do_not_see_each_other(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let owners = [
        ("a", Keyspace::Kv),
        ("a", Keyspace::Blob),
        ("ab", Keyspace::Kv),
        ("b", Keyspace::Kv),
        ("", Keyspace::Object),
    ];
    for (n, (group, keyspace)) in owners.into_iter().enumerate() {
        let write = put("bc", n.to_string()).of(group, keyspace);
        made(&records, write.when(Condition::Absent)).await;
    }
    let get = async |group, keyspace, key| {
        let record_key = record_key(group, keyspace, key);
        records.get(&record_key).await.unwrap()
    };
    for (n, (group, keyspace)) in owners.into_iter().enumerate() {
        let record = get(group, keyspace, "bc").await.unwrap();
        assert_eq!(record.value, n.to_string());
        let usage = records.usage(group, keyspace).await.unwrap();
        assert_eq!((usage.count, usage.bytes), (1, 3));
    }
    assert_eq!(get("ab", Keyspace::Kv, "c").await, None);
    assert_eq!(get("a", Keyspace::Secret, "bc").await, None);
    let usage = records.usage("nobody", Keyspace::Kv).await.unwrap();
    assert_eq!(usage, Usage::default());
}

pub async fn many_records_are_read_in_the_order_asked_for(engines: &mut dyn TestEngines) {
    let records = engines.records();
    for key in ["a", "b", "c"] {
        made(&records, put(key, key)).await;
    }
    made(&records, put_for("d", "", 0)).await;
    let record_keys = ["c", "missing", "a", "d", "c"].map(at);
    let read = records.get_many(&record_keys, 1 << 20).await.unwrap();
    let values = read.into_iter().map(|record| Some(record?.value));
    let expected = [Some("c"), None, Some("a"), None, Some("c")];
    let expected = expected.map(|text| text.map(Bytes::from));
    assert_eq!(values.collect::<Vec<_>>(), expected);
    assert_eq!(records.get_many(&[], 0).await.unwrap(), []);
}

pub async fn keys_of_any_text_are_kept_apart(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let long = "k".repeat(512);
    let keys = [
        "a",
        "A",
        "a/b",
        "a/b/",
        "ä",
        "a\u{308}",
        "%61",
        "a b",
        " a",
        "'; --",
        "\\",
        "\u{1}",
        "\u{10ffff}",
        "ｆ",
        &long,
    ];
    for key in keys {
        let write = put(key, key.to_owned()).when(Condition::Absent);
        made(&records, write).await;
    }
    for key in keys {
        assert_eq!(value(&records, key).await.as_deref(), Some(key));
    }
    assert_eq!(usage(&records).await.count, keys.len() as u64);
}

pub async fn revisions_grow_also_over_deletions(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let begun_us = now_ms().saturating_sub(60_000) * 1000;
    let mut last = 0;
    for write in [
        put("a", "1"),
        put("b", "1"),
        put("a", "1"),
        delete("a"),
        add("a", 1),
        delete("b"),
        put("b", "2"),
    ] {
        let written = made(&records, write).await;
        assert!(written.revision.0 > last);
        last = written.revision.0;
    }
    // A group that was forgotten begins above what it had.
    assert!(last > begun_us, "{last}");
}

pub async fn conditions_are_obeyed_and_refusals_name_the_state_that_is_there(
    engines: &mut dyn TestEngines,
) {
    let records = engines.records();
    let absent = || put("key", "new").when(Condition::Absent);
    let present = || put("key", "new").when(Condition::Present);
    let there = |current| Refused::Condition { current };
    assert_eq!(refused(&records, present()).await, there(None));
    let first = made(&records, absent()).await.revision;
    assert_eq!(refused(&records, absent()).await, there(Some(first)));
    let second = made(&records, present()).await.revision;
    for stale in [put("key", "new"), delete("key")] {
        let stale = stale.when(one_of(first));
        assert_eq!(refused(&records, stale).await, there(Some(second)));
    }
    let either = Condition::OneOf(vec![first, second]);
    let third = made(&records, put("key", "third").when(either)).await;
    let none = Condition::NoneOf(vec![third.revision]);
    let same = put("key", "x").when(none.clone());
    assert_eq!(refused(&records, same).await, there(Some(third.revision)));
    assert_eq!(value(&records, "key").await.unwrap(), "third");
    made(&records, put("other", "x").when(none)).await;
    made(&records, delete("key").when(one_of(third.revision))).await;
    assert_eq!(get(&records, "key").await, None);
}

pub async fn adding_is_arithmetic_on_what_is_stored(engines: &mut dyn TestEngines) {
    let records = engines.records();
    assert_eq!(made(&records, add("n", 40)).await.sum, Some(40));
    assert_eq!(made(&records, add("n", 2)).await.sum, Some(42));
    assert_eq!(made(&records, add("n", -50)).await.sum, Some(-8));
    assert_eq!(value(&records, "n").await.unwrap(), "-8");
    assert_eq!(usage(&records).await.bytes, 3);
    made(&records, put("n", i64::MAX.to_string())).await;
    assert_eq!(refused(&records, add("n", 1)).await, Refused::OutOfRange);
    made(&records, put("n", "ten")).await;
    assert_eq!(refused(&records, add("n", 1)).await, Refused::NotANumber);
    assert_eq!(value(&records, "n").await.unwrap(), "ten");
}

pub async fn a_check_of_a_healthy_engine_succeeds(engines: &mut dyn TestEngines) {
    engines.records().check().await.unwrap();
    engines.objects().check().await.unwrap();
    assert_eq!(engines.records().write(Vec::new()).await.unwrap(), []);
}

pub async fn what_was_answered_is_there_after_reopening(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let revision = made(&records, put("a", "1")).await.revision;
    made(&records, put("b", vec![3; 5000])).await;
    made(&records, put("c", "")).await;
    made(&records, delete("c")).await;
    drop(records);
    engines.reopen().await;
    let records = engines.records();
    let record = get(&records, "a").await.unwrap();
    assert_eq!(record.value, "1");
    assert_eq!(record.meta.revision, revision);
    assert_eq!(get(&records, "b").await.unwrap().value, vec![3; 5000]);
    assert_eq!(get(&records, "c").await, None);
    let next = made(&records, put("a", "2")).await.revision;
    assert!(next > revision);
}
