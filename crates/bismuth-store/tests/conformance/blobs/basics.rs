//! Storing, reading, listing and deleting blobs.

use std::num::NonZeroUsize;

use bismuth_store::blobs::{NewBlob, PutError};
use bismuth_store::records::{Condition, Refused, now_ms};
use sha2::{Digest as _, Sha256};

use super::{body, new, not_stored, read, read_range, store};
use crate::test_engines::{TestEngines, names, one_of};

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
    let part = read_range(&blobs, "key", |_| Some(3..6)).await;
    assert_eq!(part.unwrap(), b"345");
    let found = blobs.get("group", "key", |_| None).await.unwrap().unwrap();
    assert!(found.body.is_none());
    assert_eq!(found.blob, blob);
    assert_eq!(blobs.head("other", "key").await.unwrap(), None);

    blobs.put(new("empty"), body(&[])).await.unwrap();
    assert_eq!(read(&blobs, "empty").await.unwrap(), b"");
}

pub async fn creating_and_replacing_ask_for_what_is_there(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let when = |condition| NewBlob {
        condition,
        ..new("key")
    };
    let (create, replace) = (|| when(Condition::Absent), || when(Condition::Present));
    let refused = not_stored(&blobs, replace(), &[b"x"]).await;
    let none = Refused::Condition { current: None };
    assert!(matches!(refused, PutError::Refused(it) if it == none));
    let first = store(&blobs, create(), b"1").await;
    let refused = not_stored(&blobs, create(), &[b"x"]).await;
    let current = Some(first.blob.revision);
    let there = Refused::Condition { current };
    assert!(matches!(refused, PutError::Refused(it) if it == there));
    let second = store(&blobs, replace(), b"2").await;
    assert!(second.replaced && second.blob.revision > first.blob.revision);
    not_stored(&blobs, when(one_of(first.blob.revision)), &[b"x"]).await;
    store(&blobs, when(one_of(second.blob.revision)), b"3").await;
    assert_eq!(read(&blobs, "key").await.unwrap(), b"3");
    blobs.collect().await.unwrap();
    assert_eq!(engines.object_count(), 1);
}

pub async fn a_blob_is_deleted_once_and_under_its_condition(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let stored = store(&blobs, new("key"), b"1").await;
    let wrong = Condition::NoneOf(vec![stored.blob.revision]);
    let refused = blobs.delete("group", "key", &wrong).await.unwrap_err();
    assert!(matches!(refused.refusal(), Some(Refused::Condition { .. })));
    let right = one_of(stored.blob.revision);
    blobs.delete("group", "key", &right).await.unwrap();
    assert_eq!(read(&blobs, "key").await, None);
    let refused = blobs.delete("group", "key", &Condition::Always).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.refusal(), Some(&Refused::NotFound));
    let again = store(&blobs, new("key"), b"1").await;
    assert!(again.blob.revision > stored.blob.revision);
}

pub async fn blobs_are_listed_with_their_sizes(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    for (key, bytes) in [("b/2", "22"), ("a", "1"), ("b/1", ""), ("c", "333")] {
        store(&blobs, new(key), bytes.as_bytes()).await;
    }
    let ten = NonZeroUsize::new(10).unwrap();
    let page = blobs.list("group", "", None, ten).await.unwrap();
    let charges = page.entries.iter().map(|(key, meta)| (&**key, meta.charge));
    let expected = [("a", 1 + 1), ("b/1", 3), ("b/2", 3 + 2), ("c", 1 + 3)];
    assert_eq!(charges.collect::<Vec<_>>(), expected);
    assert!(!page.more);
    let one = NonZeroUsize::new(1).unwrap();
    let page = blobs.list("group", "b/", Some("b/1".into()), one).await;
    let page = page.unwrap();
    assert_eq!((names(&page), page.more), (vec!["b/2"], false));
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
