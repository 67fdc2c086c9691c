//! Storing, reading, listing and deleting blobs.

use std::num::NonZeroUsize;

use bismuth_store::blobs::{NewBlob, PutError};
use bismuth_store::records::{Condition, EngineError, Refused, now_ms};
use sha2::{Digest as _, Sha256};

use super::{body, new, read, read_range};
use crate::test_engines::{TestEngines, one_of};

pub async fn a_blob_is_read_back_whole_in_ranges_and_as_head(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    assert_eq!(blobs.head("group", "key").await.unwrap(), None);
    assert_eq!(read(&blobs, "key").await, None);
    let content_type = Some("image/png".to_owned());
    let png = NewBlob {
        content_type: content_type.clone(),
        ..new("key")
    };
    let stored = blobs.put(png, body(&[b"0123", b"456789"])).await.unwrap();
    assert!(!stored.replaced);

    let blob = blobs.head("group", "key").await.unwrap().unwrap();
    assert_eq!((blob.size, &blob.content_type), (10, &content_type));
    assert_eq!(blob.sha256, <[u8; 32]>::from(Sha256::digest("0123456789")));
    assert_eq!(blob.revision, stored.blob.revision);
    assert!(blob.modified_ms.abs_diff(now_ms()) < 60_000);
    assert_eq!(read(&blobs, "key").await.unwrap(), b"0123456789");
    assert_eq!(
        read_range(&blobs, "key", |_| Some(3..6)).await.unwrap(),
        b"345"
    );
    let found = blobs.get("group", "key", |_| None).await.unwrap().unwrap();
    assert!(found.body.is_none());
    assert_eq!(found.blob, blob);
    assert_eq!(blobs.head("other", "key").await.unwrap(), None);

    blobs.put(new("empty"), body(&[])).await.unwrap();
    assert_eq!(read(&blobs, "empty").await.unwrap(), b"");
}

pub async fn creating_and_replacing_ask_for_what_is_there(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let create = || NewBlob {
        condition: Condition::Absent,
        ..new("key")
    };
    let replace = || NewBlob {
        condition: Condition::Present,
        ..new("key")
    };
    let refused = blobs.put(replace(), body(&[b"x"])).await.unwrap_err();
    assert!(matches!(
        refused,
        PutError::Refused(Refused::Condition { current: None })
    ));
    let first = blobs.put(create(), body(&[b"1"])).await.unwrap();
    let refused = blobs.put(create(), body(&[b"x"])).await.unwrap_err();
    let current = Some(first.blob.revision);
    assert!(
        matches!(refused, PutError::Refused(Refused::Condition { current: it }) if it == current)
    );
    let second = blobs.put(replace(), body(&[b"2"])).await.unwrap();
    assert!(second.replaced && second.blob.revision > first.blob.revision);
    let stale = NewBlob {
        condition: one_of(first.blob.revision),
        ..new("key")
    };
    assert!(blobs.put(stale, body(&[b"x"])).await.is_err());
    let fresh = NewBlob {
        condition: one_of(second.blob.revision),
        ..new("key")
    };
    blobs.put(fresh, body(&[b"3"])).await.unwrap();
    assert_eq!(read(&blobs, "key").await.unwrap(), b"3");
    blobs.collect().await.unwrap();
    assert_eq!(engines.object_count(), 1);
}

pub async fn a_blob_is_deleted_once_and_under_its_condition(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let stored = blobs.put(new("key"), body(&[b"1"])).await.unwrap();
    let wrong = Condition::NoneOf(vec![stored.blob.revision]);
    let refused = blobs.delete("group", "key", &wrong).await.unwrap_err();
    assert!(matches!(
        refused,
        EngineError::Refused {
            refused: Refused::Condition { .. },
            ..
        }
    ));
    let right = one_of(stored.blob.revision);
    blobs.delete("group", "key", &right).await.unwrap();
    assert_eq!(read(&blobs, "key").await, None);
    let refused = blobs
        .delete("group", "key", &Condition::Always)
        .await
        .unwrap_err();
    assert_eq!(
        refused,
        EngineError::Refused {
            index: 0,
            refused: Refused::NotFound
        }
    );
    let again = blobs.put(new("key"), body(&[b"1"])).await.unwrap();
    assert!(again.blob.revision > stored.blob.revision);
}

pub async fn blobs_are_listed_with_their_sizes(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    for (key, bytes) in [("b/2", "22"), ("a", "1"), ("b/1", ""), ("c", "333")] {
        blobs
            .put(new(key), body(&[bytes.as_bytes()]))
            .await
            .unwrap();
    }
    let ten = NonZeroUsize::new(10).unwrap();
    let (listed, more) = blobs.list("group", "", None, ten).await.unwrap();
    let sizes: Vec<_> = listed.iter().map(|it| (it.key.as_str(), it.size)).collect();
    assert_eq!(sizes, [("a", 1), ("b/1", 0), ("b/2", 2), ("c", 3)]);
    assert!(!more);
    let one = NonZeroUsize::new(1).unwrap();
    let (listed, more) = blobs
        .list("group", "b/", Some("b/1".into()), one)
        .await
        .unwrap();
    assert_eq!((listed[0].key.as_str(), more), ("b/2", false));
    let usage = blobs.usage("group").await.unwrap();
    assert_eq!((usage.count, usage.bytes), (4, 6 + 8));
}

pub async fn a_blob_of_many_mebibytes_is_streamed_through(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let chunk: Vec<u8> = (0..64 << 10).map(|n| (n * 31 % 251) as u8).collect();
    let chunks = vec![chunk.as_slice(); 200];
    let length = Some((chunk.len() * 200) as u64);
    let new = NewBlob {
        length,
        ..new("key")
    };
    let stored = blobs.put(new, body(&chunks)).await.unwrap();
    assert_eq!(Some(stored.blob.size), length);
    assert!(read(&blobs, "key").await.unwrap() == chunks.concat());
    let range = 6_000_000_u64..8_000_000;
    let part = read_range(&blobs, "key", |_| Some(range.clone())).await;
    assert!(part.unwrap() == chunks.concat()[6_000_000..8_000_000]);
}
