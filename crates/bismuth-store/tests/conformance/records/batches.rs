//! Batches are atomic.

use std::sync::Arc;

use bismuth_store::records::{Condition, EngineError, Keyspace, Refused, Usage};

use crate::test_engines::{
    TestEngines, WriteExt, add, at, delete, get, join, made, put, refused, summed, usage, value,
};

pub async fn a_batch_is_made_in_its_order(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let batch = vec![
        put("a", "1").when(Condition::Absent),
        add("a", 1),
        put("b", "x"),
        delete("b").when(Condition::Present),
        put("b", "y").when(Condition::Absent),
        put("c", "z").of("other", Keyspace::Blob),
    ];
    let written = records.write(batch).await.unwrap();
    assert_eq!(written[1].sum, Some(2));
    let before = written[1].before.as_ref().unwrap();
    assert_eq!(before.revision, written[0].revision);
    let revisions: Vec<_> = written[..5].iter().map(|it| it.revision).collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    assert_eq!(value(&records, "a").await.unwrap(), "2");
    assert_eq!(value(&records, "b").await.unwrap(), "y");
    let stored = get(&records, "b").await.unwrap();
    assert_eq!(stored.meta.revision, revisions[4]);
    assert_eq!(usage(&records).await, Usage { bytes: 4, count: 2 });
    assert_eq!(usage(&records).await, summed(&records).await);
}

pub async fn a_batch_with_a_refused_write_changes_nothing_and_names_it(
    engines: &mut dyn TestEngines,
) {
    let records = engines.records();
    made(&records, put("a", "old")).await;
    let before = get(&records, "a").await;
    let batch = vec![
        put("a", "new"),
        put("b", "new"),
        put("c", "new").of("other", Keyspace::Blob),
        put("a", "newer").when(Condition::Absent),
        delete("a"),
    ];
    let error = records.write(batch).await.unwrap_err();
    let EngineError::Refused {
        index: 3,
        refused: Refused::Condition { current },
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(current > before.as_ref().map(|record| record.meta.revision));
    assert_eq!(get(&records, "a").await, before);
    assert_eq!(get(&records, "b").await, None);
    assert_eq!(usage(&records).await, Usage { bytes: 4, count: 1 });
    let other = records.usage("other", Keyspace::Blob).await.unwrap();
    assert_eq!(other, Usage::default());
}

pub async fn a_refused_batch_does_not_spoil_its_neighbours(engines: &mut dyn TestEngines) {
    let records = engines.records();
    made(&records, put("there", "")).await;
    let tasks = (0..60).map(|n| {
        let records = Arc::clone(&records);
        tokio::spawn(async move {
            let good = n % 2 == 0;
            let condition = match good {
                true => Condition::Present,
                false => Condition::Absent,
            };
            let batch = vec![
                put(&format!("key-{n}"), "value"),
                put("there", n.to_string()).when(condition),
            ];
            let made = records.write(batch).await;
            assert_eq!(made.is_ok(), good, "{made:?}");
        })
    });
    join(tasks).await;
    for n in 0..60 {
        let record = get(&records, &format!("key-{n}")).await;
        assert_eq!(record.is_some(), n % 2 == 0);
    }
    assert_eq!(usage(&records).await, summed(&records).await);
}

pub async fn batches_over_many_owners_in_any_order_do_not_lock_each_other_out(
    engines: &mut dyn TestEngines,
) {
    let instances = [engines.records(), engines.others()];
    let tasks = (0..24).map(|n| {
        let records = Arc::clone(&instances[n % 2]);
        tokio::spawn(async move {
            for round in 0..5 {
                let mut batch: Vec<_> = ["a", "b", "c"]
                    .iter()
                    .map(|group| add("n", 1).of(group, Keyspace::Kv))
                    .collect();
                batch.rotate_left((n + round) % 3);
                records.write(batch).await.unwrap();
            }
        })
    });
    join(tasks).await;
    for group in ["a", "b", "c"] {
        let record_key = crate::test_engines::record_key(group, Keyspace::Kv, "n");
        let record = engines.records().get(&record_key).await.unwrap().unwrap();
        assert_eq!(record.value, "120");
    }
}

pub async fn a_read_of_more_bytes_than_its_limit_is_refused(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let batch = ["a", "b", "c"].map(|key| put(key, vec![1; 40_000]));
    records.write(batch.into()).await.unwrap();
    let record_keys = ["a", "b", "none", "c"].map(at);
    let found = records.get_many(&record_keys, 120_000).await.unwrap();
    assert_eq!(found.iter().flatten().count(), 3);
    let limit = 119_999;
    let refused = records.get_many(&record_keys, limit).await;
    assert_eq!(refused, Err(EngineError::TooLarge { limit }));
    let none = records.get_many(&record_keys[2..3], 0).await.unwrap();
    assert_eq!(none, [const { None }; 1]);
}

pub async fn a_large_value_is_no_number_and_is_replaced_in_a_batch(engines: &mut dyn TestEngines) {
    let records = engines.records();
    for digits in [64, 65, 1024, 1025, 100_000] {
        let number = "0".repeat(digits - 2) + "41";
        made(&records, put("n", number)).await;
        match digits {
            64 => assert_eq!(made(&records, add("n", 1)).await.sum, Some(42)),
            _ => assert_eq!(refused(&records, add("n", 1)).await, Refused::NotANumber),
        }
        let written = records.write(vec![put("n", "1"), add("n", 1)]).await;
        assert_eq!(written.unwrap()[1].sum, Some(2));
    }
    assert_eq!(usage(&records).await, summed(&records).await);
}
