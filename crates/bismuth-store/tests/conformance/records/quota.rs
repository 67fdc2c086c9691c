//! Quotas of records.

use std::sync::Arc;

use bismuth_store::records::{EngineError, Refused, Usage, Write};

use crate::test_engines::{
    TestEngines, WriteExt, add, delete, join, made, make, put, refused, summed, usage,
};

pub async fn a_limit_is_reached_exactly_and_not_passed(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let bytes = |write: Write| write.within(Some(10), None);
    made(&records, bytes(put("a", "1234"))).await;
    made(&records, bytes(put("b", "1234"))).await;
    let (needed, limit) = (11, 10);
    let over = Refused::Bytes { needed, limit };
    assert_eq!(refused(&records, bytes(put("b", "12345"))).await, over);
    assert_eq!(refused(&records, bytes(put("c", ""))).await, over);
    made(&records, bytes(put("b", "4321"))).await;
    made(&records, bytes(put("b", "321"))).await;
    made(&records, bytes(put("c", ""))).await;
    // The limit is lowered below what is used: everything that does not grow goes on.
    let low = |write: Write| write.within(Some(1), Some(1));
    made(&records, low(put("a", "9999"))).await;
    let grows = refused(&records, low(put("a", "99999"))).await;
    assert!(matches!(grows, Refused::Bytes { .. }), "{grows:?}");
    made(&records, low(delete("c"))).await;
    let one_more = put("c", "").within(None, Some(2));
    assert_eq!(
        refused(&records, one_more).await,
        Refused::Count { limit: 2 }
    );
    made(&records, put("c", "").within(None, Some(3))).await;
    let (bytes, count) = (10, 3);
    assert_eq!(usage(&records).await, Usage { bytes, count });
}

pub async fn usage_is_exact_after_reopening(engines: &mut dyn TestEngines) {
    for round in 0..3 {
        let records = engines.records();
        for n in 0..10 {
            made(&records, put(&format!("key-{n}"), vec![1; n * round])).await;
        }
        made(&records, delete(&format!("key-{round}"))).await;
        let before = usage(&records).await;
        drop(records);
        engines.reopen().await;
        let records = engines.records();
        assert_eq!(usage(&records).await, before);
        assert_eq!(summed(&records).await, before);
        let limit = Some(before.bytes + 1);
        let write = |key: &str| put(key, "").within(limit, None);
        let full = refused(&records, write("two")).await;
        assert!(matches!(full, Refused::Bytes { .. }), "{full:?}");
        made(&records, write("1")).await;
        made(&records, delete("1")).await;
    }
}

pub async fn usage_is_exact_under_concurrent_writers(engines: &mut dyn TestEngines) {
    let instances = [engines.records(), engines.others()];
    let tasks = (0..16).map(|n| {
        let records = Arc::clone(&instances[n % 2]);
        tokio::spawn(async move {
            for round in 0..12 {
                let key = format!("key-{}", (n * 7 + round * 5) % 10);
                let write = match (n + round) % 4 {
                    0 => delete(&key),
                    1 => add(&format!("n-{key}"), 95),
                    _ => put(&key, vec![0; (n * 13 + round) % 40]),
                };
                match make(&records, write).await {
                    Ok(_) | Err(EngineError::Refused { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    join(tasks).await;
    for records in instances {
        assert_eq!(usage(&records).await, summed(&records).await);
    }
}

pub async fn a_limit_holds_under_concurrent_writers(engines: &mut dyn TestEngines) {
    let instances = [engines.records(), engines.others()];
    let tasks = (0..40).map(|n| {
        let records = Arc::clone(&instances[n % 2]);
        tokio::spawn(async move {
            let write = put(&format!("key-{n:02}"), "123").within(Some(90), Some(12));
            match make(&records, write).await {
                Ok(_) => 1,
                Err(EngineError::Refused { .. }) => 0,
                Err(error) => panic!("{error}"),
            }
        })
    });
    let written: u64 = join(tasks).await.into_iter().sum();
    let records = &instances[0];
    let (bytes, count) = (90, 10);
    let expected = Usage { bytes, count };
    assert_eq!((written, usage(records).await), (count, expected));
    assert_eq!(summed(records).await, expected);
}
