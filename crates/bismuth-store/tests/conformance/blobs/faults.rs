//! Uploads that fail, stall or are cancelled.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bismuth_store::blobs::{Blobs, NewBlob, PutError, Settings};
use bismuth_store::records::{
    EngineError, Keyspace, Owner, Page, Query, Record, RecordKey, Records, Usage, Write, Written,
};
use bismuth_testkit::eventually;
use sha2::{Digest as _, Sha256};

use super::{begin_small_upload, begin_upload, broken, new, not_stored, read, store};
use crate::test_engines::{EVENTUALLY_TIMEOUT, TestEngines};

pub async fn a_broken_upload_leaves_the_old_blob_and_nothing_else(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let large = vec![1; 6 << 20];
    for chunk in [b"half".as_slice(), &large] {
        let error = blobs.put(new("fresh"), broken(chunk)).await.unwrap_err();
        assert!(matches!(error, PutError::Body(_)), "{error:?}");
        assert_eq!(read(&blobs, "fresh").await, None);
    }
    let old = store(&blobs, new("key"), b"old").await;
    blobs.put(new("key"), broken(b"new")).await.unwrap_err();
    assert_eq!(read(&blobs, "key").await.unwrap(), b"old");
    let now = blobs.head("group", "key").await.unwrap();
    assert_eq!(now, Some(old.blob));
    assert_eq!(engines.object_count(), 1);
    let states = engines.records().groups(Keyspace::Object).await.unwrap();
    assert_eq!(states, [""; 0]);
    assert_eq!(blobs.usage("group").await.unwrap().count, 1);
}

pub async fn bytes_that_are_not_those_announced_are_refused(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let announced = |text: &str| NewBlob {
        sha256: Some(Sha256::digest(text).into()),
        ..new("key")
    };
    store(&blobs, announced("right"), b"right").await;
    let error = not_stored(&blobs, announced("right"), &[b"wrong"]).await;
    assert!(matches!(error, PutError::Digest), "{error:?}");
    assert_eq!(read(&blobs, "key").await.unwrap(), b"right");
    assert_eq!(engines.object_count(), 1);
}

pub async fn what_is_too_large_is_refused_before_and_while_it_comes(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs_with(Settings {
        max_bytes: 8,
        ..Settings::default()
    });
    let announced = |length| NewBlob {
        length: Some(length),
        ..new("key")
    };
    store(&blobs, announced(8), b"12345678").await;
    // It is refused before the first byte: a body that breaks off is not even looked at.
    let before = blobs.put(announced(9), broken(b"")).await.unwrap_err();
    let meanwhile = not_stored(&blobs, new("key"), &[b"12345678", b"9"]).await;
    for error in [before, meanwhile] {
        let too_large = matches!(error, PutError::TooLarge { limit: 8 });
        assert!(too_large, "{error:?}");
    }
    assert_eq!(read(&blobs, "key").await.unwrap(), b"12345678");
    assert_eq!(engines.object_count(), 1);
}

pub async fn an_upload_that_was_given_up_is_collected_and_cannot_be_finished(
    engines: &mut dyn TestEngines,
) {
    // To others, whoever has not spoken just now has died.
    let others = engines.blobs_that_abandon_at_once();
    let blobs = engines.blobs();
    store(&blobs, new("key"), b"old").await;

    // It only slept, and comes back too late.
    let (feed, slow) = begin_small_upload(&blobs).await;
    assert_eq!(others.collect().await.unwrap().removed, 1);
    assert_eq!(blobs.collect().await.unwrap().removed, 0);
    drop(feed);
    let error = slow.await.unwrap().unwrap_err();
    let given_up = matches!(error, PutError::Abandoned | PutError::Engine(_));
    assert!(given_up, "{error:?}");
    assert_eq!(read(&blobs, "key").await.unwrap(), b"old");
    others.collect().await.unwrap();
    assert_eq!(engines.object_count(), 1);
}

pub async fn an_upload_whose_sender_went_away_leaves_nothing(engines: &mut dyn TestEngines) {
    let (_feed, cut_off) = begin_small_upload(&engines.blobs()).await;
    cut_off.abort();
    assert!(cut_off.await.unwrap_err().is_cancelled());
    eventually("no byte is left", EVENTUALLY_TIMEOUT, async || {
        let left = engines.object_count();
        (left == 0).then_some(()).ok_or(left)
    })
    .await;
    // What was on its way then is looked for once more.
    let collected = engines
        .blobs_that_abandon_at_once()
        .collect()
        .await
        .unwrap();
    assert_eq!(collected.removed, 1);
    let states = engines.records().groups(Keyspace::Object).await.unwrap();
    assert_eq!(states, [""; 0]);
}

pub async fn an_upload_goes_on_when_the_answer_to_its_renewal_was_lost(
    engines: &mut dyn TestEngines,
) {
    let records = Arc::new(LosesAnswer {
        records: engines.records(),
        hears: AtomicBool::new(true),
    });
    let settings = Settings {
        renew_every: Duration::from_millis(20),
        ..Settings::default()
    };
    let blobs = Blobs::new(Arc::clone(&records) as _, engines.objects(), settings);
    let (feed, upload) = begin_small_upload(&blobs).await;
    records.hears.store(false, Ordering::SeqCst);
    eventually("an answer was lost", EVENTUALLY_TIMEOUT, async || {
        let lost = records.hears.load(Ordering::SeqCst);
        lost.then_some(()).ok_or("not yet")
    })
    .await;
    drop(feed);
    upload.await.unwrap().unwrap();
    assert_eq!(read(&engines.blobs(), "key").await.unwrap(), b"ab");
}

/// Records of which one answer to a write is lost.
struct LosesAnswer {
    records: Arc<dyn Records>,
    hears: AtomicBool,
}

#[async_trait]
impl Records for LosesAnswer {
    async fn get(&self, record_key: &RecordKey) -> Result<Option<Record>, EngineError> {
        self.records.get(record_key).await
    }

    async fn get_many(
        &self,
        record_keys: &[RecordKey],
        most_bytes: u64,
    ) -> Result<Vec<Option<Record>>, EngineError> {
        self.records.get_many(record_keys, most_bytes).await
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        self.records.list(query).await
    }

    async fn write(&self, batch: Vec<Write>) -> Result<Vec<Written>, EngineError> {
        let written = self.records.write(batch).await;
        match self.hears.swap(true, Ordering::SeqCst) {
            true => written,
            false => Err(EngineError::unavailable("the fake", "it does not answer")),
        }
    }

    async fn usage(&self, group: &str, keyspace: Keyspace) -> Result<Usage, EngineError> {
        self.records.usage(group, keyspace).await
    }

    async fn groups(&self, keyspace: Keyspace) -> Result<Vec<String>, EngineError> {
        self.records.groups(keyspace).await
    }

    async fn sweep(&self, of: Option<&Owner>, limit: NonZeroUsize) -> Result<usize, EngineError> {
        self.records.sweep(of, limit).await
    }

    async fn check(&self) -> Result<(), EngineError> {
        self.records.check().await
    }
}

pub async fn an_upload_that_goes_on_is_left_alone(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs_with(Settings {
        renew_every: Duration::from_millis(20),
        abandoned_after: Duration::from_secs(2),
        ..Settings::default()
    });
    let (feed, upload) = begin_upload(&blobs, new("key"));
    feed.send("a".into()).await.unwrap();
    let begun = std::time::Instant::now();
    // Longer than an upload is waited for that says nothing.
    while begun.elapsed() < Duration::from_millis(2500) {
        let collected = blobs.collect().await.unwrap();
        assert_eq!((collected.removed, collected.failed), (0, None));
    }
    feed.send("b".into()).await.unwrap();
    drop(feed);
    upload.await.unwrap().unwrap();
    assert_eq!(read(&blobs, "key").await.unwrap(), b"ab");
}
