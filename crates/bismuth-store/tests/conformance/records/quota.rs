//! Quotas of records.

use std::sync::Arc;

use bismuth_store::records::{EngineError, Refused, Usage};

use crate::test_engines::{TestEngines, WriteExt, add, delete, make, put, refused, summed, usage};

pub async fn a_limit_is_reached_exactly_and_not_passed(engines: &mut dyn TestEngines) {
    let records = engines.records();
    let bytes = |write: bismuth_store::records::Write| write.within(Some(10), None);
    make(&records, bytes(put("a", "1234"))).await.unwrap();
    make(&records, bytes(put("b", "1234"))).await.unwrap();
    let over = Refused::Bytes {
        needed: 11,
        limit: 10,
    };
    assert_eq!(refused(&records, bytes(put("b", "12345"))).await, over);
    assert_eq!(refused(&records, bytes(put("c", ""))).await, over);
    make(&records, bytes(put("b", "4321"))).await.unwrap();
    make(&records, bytes(put("b", "321"))).await.unwrap();
    make(&records, bytes(put("c", ""))).await.unwrap();
    // The limit is lowered below what is used: everything that does not grow goes on.
    let low = |write: bismuth_store::records::Write| write.within(Some(1), Some(1));
    make(&records, low(put("a", "9999"))).await.unwrap();
    assert!(matches!(
        refused(&records, low(put("a", "99999"))).await,
        Refused::Bytes { .. }
    ));
    make(&records, low(delete("c"))).await.unwrap();
    assert_eq!(
        refused(&records, put("c", "").within(None, Some(2))).await,
        Refused::Count { limit: 2 }
    );
    make(&records, put("c", "").within(None, Some(3)))
        .await
        .unwrap();
    assert_eq!(
        usage(&records).await,
        Usage {
            bytes: 10,
            count: 3
        }
    );
}

pub async fn usage_is_exact_after_reopening(engines: &mut dyn TestEngines) {
    for round in 0..3 {
        let records = engines.records();
        for n in 0..10 {
            make(&records, put(&format!("key-{n}"), vec![1; n * round]))
                .await
                .unwrap();
        }
        make(&records, delete(&format!("key-{round}")))
            .await
            .unwrap();
        let before = usage(&records).await;
        drop(records);
        engines.reopen().await;
        let records = engines.records();
        assert_eq!(usage(&records).await, before);
        assert_eq!(summed(&records).await, before);
        let limit = Some(before.bytes + 1);
        let write = |key: &str| put(key, "").within(limit, None);
        assert!(matches!(
            refused(&records, write("two")).await,
            Refused::Bytes { .. }
        ));
        make(&records, write("1")).await.unwrap();
        make(&records, delete("1")).await.unwrap();
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
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
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
    let mut made = 0;
    for task in tasks.collect::<Vec<_>>() {
        made += task.await.unwrap();
    }
    let records = &instances[0];
    let expected = Usage {
        bytes: 90,
        count: 10,
    };
    assert_eq!((made, usage(records).await), (10, expected));
    assert_eq!(summed(records).await, expected);
}
