//! Reading and changing single records.

use bismuth_store::records::{Change, Condition, Keyspace, Refused, now_ms};

use crate::test_engines::{
    TestEngines, WriteExt, add, at, delete, get, make, one_of, put, record_key, refused, value,
    write,
};

pub async fn a_record_is_read_back_with_its_metadata(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let change = Change::Put {
        value: "value".into(),
        content_type: Some("text/plain".into()),
        ttl_ms: Some(3_600_000),
        charge: 77,
    };
    let written = make(&records, write("key", change)).await.unwrap();
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

    let again = make(&records, put("key", "other")).await.unwrap();
    assert_eq!(again.before, Some(record.meta));
    let record = get(&records, "key").await.unwrap();
    assert_eq!(
        (record.meta.content_type, record.meta.expires_ms),
        (None, None)
    );
}

pub async fn a_large_value_is_read_back_and_may_become_small_and_large_again(
    engines: &mut dyn TestEngines,
) {
    let records = engines.records();
    for size in [1 << 20, 0, 1024, 1025, 3, 70_000] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        make(&records, put("key", bytes.clone())).await.unwrap();
        let record = get(&records, "key").await.unwrap();
        assert!(record.value == bytes, "a value of {size} bytes");
    }
    let deleted = make(&records, delete("key")).await.unwrap();
    assert_eq!(deleted.before.unwrap().charge, 70_003);
    assert_eq!(get(&records, "key").await, None);
    make(&records, put("key", "anew")).await.unwrap();
    assert_eq!(value(&records, "key").await.unwrap(), "anew");
}

pub async fn what_is_missing_is_none_and_cannot_be_deleted(engines: &mut dyn TestEngines) {
    let records = engines.records();
    assert_eq!(get(&records, "key").await, None);
    assert_eq!(refused(&records, delete("key")).await, Refused::NotFound);
    make(&records, put("key", "")).await.unwrap();
    make(&records, delete("key")).await.unwrap();
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
        make(&records, write.when(Condition::Absent)).await.unwrap();
    }
    for (n, (group, keyspace)) in owners.into_iter().enumerate() {
        let record = records
            .get(&record_key(group, keyspace, "bc"))
            .await
            .unwrap();
        assert_eq!(record.unwrap().value, n.to_string());
        let usage = records.usage(group, keyspace).await.unwrap();
        assert_eq!((usage.count, usage.bytes), (1, 3));
    }
    assert_eq!(
        records
            .get(&record_key("ab", Keyspace::Kv, "c"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        records
            .get(&record_key("a", Keyspace::Secret, "bc"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        records.usage("nobody", Keyspace::Kv).await.unwrap(),
        Default::default()
    );
}

pub async fn many_records_are_read_in_the_order_asked_for(engines: &mut dyn TestEngines) {
    let records = engines.records();
    for key in ["a", "b", "c"] {
        make(&records, put(key, key)).await.unwrap();
    }
    let expired = crate::test_engines::put_for("d", "", 0);
    make(&records, expired).await.unwrap();
    let record_keys = ["c", "missing", "a", "d", "c"].map(at);
    let read = records.get_many(&record_keys, 1 << 20).await.unwrap();
    let values: Vec<_> = read
        .iter()
        .map(|record| record.as_ref().map(|record| record.value.to_vec()))
        .collect();
    let expected = [Some("c"), None, Some("a"), None, Some("c")];
    assert_eq!(
        values,
        expected.map(|text| text.map(|text| text.as_bytes().to_vec()))
    );
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
        make(&records, write).await.unwrap();
    }
    for key in keys {
        assert_eq!(value(&records, key).await.as_deref(), Some(key));
    }
    assert_eq!(
        crate::test_engines::usage(&records).await.count,
        keys.len() as u64
    );
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
        let written = make(&records, write).await.unwrap();
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
    let nothing = Refused::Condition { current: None };
    assert_eq!(refused(&records, present()).await, nothing);
    let first = make(&records, absent()).await.unwrap().revision;
    let current = Some(first);
    assert_eq!(
        refused(&records, absent()).await,
        Refused::Condition { current }
    );
    let second = make(&records, present()).await.unwrap().revision;
    let stale = put("key", "new").when(one_of(first));
    let current = Some(second);
    assert_eq!(
        refused(&records, stale.clone()).await,
        Refused::Condition { current }
    );
    let stale = delete("key").when(one_of(first));
    assert_eq!(
        refused(&records, stale).await,
        Refused::Condition { current }
    );
    let either = Condition::OneOf(vec![first, second]);
    let third = make(&records, put("key", "third").when(either))
        .await
        .unwrap();
    let none = Condition::NoneOf(vec![third.revision]);
    let current = Some(third.revision);
    assert_eq!(
        refused(&records, put("key", "x").when(none.clone())).await,
        Refused::Condition { current }
    );
    assert_eq!(value(&records, "key").await.unwrap(), "third");
    make(&records, put("other", "x").when(none)).await.unwrap();
    make(&records, delete("key").when(one_of(third.revision)))
        .await
        .unwrap();
    assert_eq!(get(&records, "key").await, None);
}

pub async fn adding_is_arithmetic_on_what_is_stored(engines: &mut dyn TestEngines) {
    let records = engines.records();
    assert_eq!(make(&records, add("n", 40)).await.unwrap().sum, Some(40));
    assert_eq!(make(&records, add("n", 2)).await.unwrap().sum, Some(42));
    assert_eq!(make(&records, add("n", -50)).await.unwrap().sum, Some(-8));
    assert_eq!(value(&records, "n").await.unwrap(), "-8");
    assert_eq!(crate::test_engines::usage(&records).await.bytes, 3);
    make(&records, put("n", i64::MAX.to_string()))
        .await
        .unwrap();
    assert_eq!(refused(&records, add("n", 1)).await, Refused::OutOfRange);
    make(&records, put("n", "ten")).await.unwrap();
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
    let revision = make(&records, put("a", "1")).await.unwrap().revision;
    make(&records, put("b", vec![3; 5000])).await.unwrap();
    make(&records, put("c", "")).await.unwrap();
    make(&records, delete("c")).await.unwrap();
    drop(records);
    engines.reopen().await;
    let records = engines.records();
    let record = get(&records, "a").await.unwrap();
    assert_eq!(
        (&*record.value, record.meta.revision),
        (b"1".as_slice(), revision)
    );
    assert_eq!(get(&records, "b").await.unwrap().value, vec![3; 5000]);
    assert_eq!(get(&records, "c").await, None);
    let next = make(&records, put("a", "2")).await.unwrap().revision;
    assert!(next > revision);
}
