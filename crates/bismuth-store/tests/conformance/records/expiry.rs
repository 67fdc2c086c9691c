//! Expiry of records.

use std::num::NonZeroUsize;

use bismuth_store::records::{Change, Condition, Keyspace, Usage, now_ms, write_with_room};
use bismuth_testkit::eventually;

use crate::test_engines::{
    EVENTUALLY_TIMEOUT, TestEngines, WriteExt, add, get, made, names, put, put_for, query, summed,
    usage, value, write,
};

fn limit(limit: usize) -> NonZeroUsize {
    NonZeroUsize::new(limit).unwrap()
}

pub async fn a_record_is_absent_when_its_time_has_come_and_used_until_it_is_swept(
    engines: &mut dyn TestEngines,
) {
    let records = engines.records();
    made(&records, put("stays", "1")).await;
    made(&records, put_for("goes", "1", 300)).await;
    eventually("it is gone", EVENTUALLY_TIMEOUT, async || {
        match get(&records, "goes").await {
            None => Ok(()),
            Some(record) => Err(format!("at {} it is {record:?}", now_ms())),
        }
    })
    .await;
    let page = records.list(&query("", None, 9)).await.unwrap();
    assert_eq!(names(&page), ["stays"]);
    assert_eq!(usage(&records).await.count, 2);
    assert_eq!(records.sweep(None, limit(10)).await.unwrap(), 1);
    assert_eq!(usage(&records).await, Usage { bytes: 6, count: 1 });
    assert_eq!(records.sweep(None, limit(10)).await.unwrap(), 0);
    assert_eq!(value(&records, "stays").await.unwrap(), "1");
}

pub async fn a_sweep_keeps_to_its_limit_and_to_what_is_due(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let (past, future) = (0, 3_600_000);
    let mut batch: Vec<_> = (0..5)
        .map(|n| put_for(&format!("due-{n}"), "", past))
        .collect();
    batch.push(put_for("later", "", future));
    batch.push(put_for("saved", "", past));
    batch.push(put("saved", "for ever"));
    batch.push(put_for("hastened", "", future));
    batch.push(put_for("hastened", "", past));
    records.write(batch).await.unwrap();
    assert_eq!(usage(&records).await.count, 8);
    assert_eq!(records.sweep(None, limit(4)).await.unwrap(), 4);
    assert_eq!(usage(&records).await.count, 4);
    assert_eq!(records.sweep(None, limit(4)).await.unwrap(), 2);
    assert_eq!(records.sweep(None, limit(4)).await.unwrap(), 0);
    let page = records.list(&query("", None, 9)).await.unwrap();
    assert_eq!(names(&page), ["later", "saved"]);
    assert_eq!(usage(&records).await, summed(&records).await);
}

pub async fn a_record_past_its_time_can_be_made_anew(engines: &mut dyn TestEngines) {
    let records = engines.records();
    made(&records, put_for("key", "old", 0)).await;
    let written = made(&records, put("key", "new").when(Condition::Absent)).await;
    assert_eq!(written.before, None);
    assert_eq!(usage(&records).await, Usage { bytes: 6, count: 1 });
    assert_eq!(records.sweep(None, limit(10)).await.unwrap(), 0);
    assert_eq!(value(&records, "key").await.unwrap(), "new");

    made(&records, put_for("n", "41", 0)).await;
    assert_eq!(made(&records, add("n", 1)).await.sum, Some(1));
    let (delta, ttl_ms) = (1, Some(3_600_000));
    let timed = made(&records, write("n", Change::Add { delta, ttl_ms })).await;
    assert_eq!(timed.sum, Some(2));
    made(&records, add("n", 1)).await;
    let expires_ms = get(&records, "n").await.unwrap().meta.expires_ms;
    assert_eq!(expires_ms, Some(timed.modified_ms + 3_600_000));
}

pub async fn expired_records_make_room_for_new_ones(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let limited = |key: &str| vec![put(key, "").within(None, Some(1))];
    // As many as are swept at once are due before, and are nobody's business.
    for start in [0, 500] {
        let due =
            (start..start + 500).map(|n| put_for(&format!("{n}"), "", 0).of("other", Keyspace::Kv));
        records.write(due.collect()).await.unwrap();
    }
    made(&records, put_for("gone", "", 0)).await;
    assert!(records.write(limited("key")).await.is_err());
    write_with_room(&*records, limited("key")).await.unwrap();
    let another = write_with_room(&*records, limited("another")).await;
    assert!(another.is_err(), "{another:?}");
    assert_eq!(usage(&records).await.count, 1);
}
