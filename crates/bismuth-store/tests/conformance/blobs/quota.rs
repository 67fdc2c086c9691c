//! Quotas of blobs, and collection of their objects.

use std::io;

use bismuth_store::blobs::{NewBlob, PutError};
use bismuth_store::records::{Condition, Keyspace, Limits, Refused};
use bytes::Bytes;
use futures_util::stream;

use super::{begin_upload, body, broken, new, not_stored, read, store};
use crate::test_engines::{TestEngines, join};

pub async fn a_quota_of_blobs_is_exact_and_a_smaller_replacement_is_allowed(
    engines: &mut dyn TestEngines,
) {
    let blobs = engines.blobs();
    let limited = |key: &str, bytes, count| NewBlob {
        limits: Limits {
            bytes: Some(bytes),
            count: Some(count),
        },
        ..new(key)
    };
    store(&blobs, limited("a", 10, 2), b"123").await;
    store(&blobs, limited("b", 10, 2), b"12345").await;
    let counted = not_stored(&blobs, limited("c", 20, 2), &[]).await;
    let measured = not_stored(&blobs, limited("b", 10, 2), &[b"123456"]).await;
    // What is announced is refused before the first byte.
    let announced = NewBlob {
        length: Some(6),
        ..limited("b", 10, 2)
    };
    let announced = blobs.put(announced, broken(b"")).await.unwrap_err();
    let (needed, limit) = (11, 10);
    for (error, expected) in [
        (counted, Refused::Count { limit: 2 }),
        (measured, Refused::Bytes { needed, limit }),
        (announced, Refused::Bytes { needed, limit }),
    ] {
        let as_expected = matches!(&error, PutError::Refused(it) if *it == expected);
        assert!(as_expected, "{error:?}");
    }
    store(&blobs, limited("b", 1, 1), b"1234").await;
    let usage = blobs.usage("group").await.unwrap();
    assert_eq!((usage.bytes, usage.count), (9, 2));
    blobs.collect().await.unwrap();
    assert_eq!(engines.object_count(), 2);
}

pub async fn uploads_at_once_take_no_more_than_the_group_may_have(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let limited = |key: &str| NewBlob {
        limits: Limits {
            bytes: Some(100),
            count: None,
        },
        ..new(key)
    };
    // What does not say how much it is.
    let endless = || stream::iter((0..50).map(|_| io::Result::Ok(Bytes::from_static(&[0; 10]))));
    let error = blobs.put(limited("a"), endless()).await.unwrap_err();
    let PutError::Refused(Refused::Bytes { needed, limit: 100 }) = error else {
        panic!("{error:?}");
    };
    assert!((101..=110).contains(&needed), "it was refused at {needed}");

    // One that has sent 60 bytes and goes on; another has room for 39 beside it.
    let (feed, slow) = begin_upload(&blobs, limited("s"));
    for _ in 0..3 {
        feed.send(Bytes::from_static(&[0; 20])).await.unwrap();
    }
    // The third was counted when what follows it was taken.
    feed.send(Bytes::new()).await.unwrap();
    feed.send(Bytes::new()).await.unwrap();
    let announced = |length| NewBlob {
        length: Some(length),
        ..limited("b")
    };
    let error = not_stored(&blobs, announced(39), &[&[0; 39]]).await;
    let full = matches!(error, PutError::Refused(Refused::Bytes { .. }));
    assert!(full, "{error:?}");
    store(&blobs, announced(38), &[0; 38]).await;
    drop(feed);
    slow.await.unwrap().unwrap();
    assert_eq!(blobs.usage("group").await.unwrap().bytes, 100);
}

pub async fn replaced_and_deleted_objects_are_collected(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    for n in 0..5 {
        store(&blobs, new("key"), n.to_string().as_bytes()).await;
        store(&blobs, new(&format!("key-{n}")), b"x").await;
    }
    for n in 0..4 {
        let key = format!("key-{n}");
        let deleted = blobs.delete("group", &key, &Condition::Always).await;
        deleted.unwrap();
    }
    assert_eq!(engines.object_count(), 10);
    let collected = blobs.collect().await.unwrap();
    assert_eq!((collected.removed, collected.failed), (8, None));
    assert_eq!(engines.object_count(), 2);
    assert_eq!(read(&blobs, "key").await.unwrap(), b"4");
    let states = engines.records().groups(Keyspace::Object).await.unwrap();
    assert_eq!(states, [""; 0]);
    assert_eq!(blobs.collect().await.unwrap().removed, 0);
}

pub async fn writers_of_one_key_leave_one_whole_blob(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let tasks = (0..12_u8).map(|n| {
        let blobs = blobs.clone();
        tokio::spawn(async move {
            let chunk = vec![n; 50_000];
            let stored = blobs.put(new("key"), body(&[&chunk, &chunk]));
            stored.await.unwrap();
        })
    });
    join(tasks).await;
    let bytes = read(&blobs, "key").await.unwrap();
    assert!(bytes.len() == 100_000 && bytes.iter().all(|&byte| byte == bytes[0]));
    blobs.collect().await.unwrap();
    assert_eq!(engines.object_count(), 1);
    assert_eq!(blobs.usage("group").await.unwrap().bytes, 100_003);
}

pub async fn readers_see_the_old_blob_or_the_new_one_whole(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let put = async |n: u8| {
        let chunk = vec![n; 40_000];
        let stored = blobs.put(new("key"), body(&[&chunk, &chunk]));
        stored.await.unwrap();
    };
    put(0).await;
    let readers = (0..4).map(|_| {
        let blobs = blobs.clone();
        tokio::spawn(async move {
            let mut last = 0;
            while last < 20 {
                let bytes = read(&blobs, "key").await.unwrap();
                assert!(bytes.len() == 80_000 && bytes.iter().all(|&byte| byte == bytes[0]));
                assert!(bytes[0] >= last, "an older blob came back");
                last = bytes[0];
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    for n in 1..=20 {
        put(n).await;
        blobs.collect().await.unwrap();
    }
    join(readers.into_iter()).await;
}
