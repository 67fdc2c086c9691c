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

use super::{body, broken, fed, new, read};
use crate::test_engines::{EVENTUALLY_TIMEOUT, TestEngines};

pub async fn a_broken_upload_leaves_the_old_blob_and_nothing_else(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let large = vec![1; 6 << 20];
    for chunk in [b"half".as_slice(), &large] {
        let error = blobs.put(new("fresh"), broken(chunk)).await.unwrap_err();
        assert!(matches!(error, PutError::Body(_)), "{error:?}");
        assert_eq!(read(&blobs, "fresh").await, None);
    }
    let old = blobs.put(new("key"), body(&[b"old"])).await.unwrap();
    blobs.put(new("key"), broken(b"new")).await.unwrap_err();
    assert_eq!(read(&blobs, "key").await.unwrap(), b"old");
    assert_eq!(
        blobs.head("group", "key").await.unwrap(),
        Some(old.blob.clone())
    );
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
    blobs
        .put(announced("right"), body(&[b"right"]))
        .await
        .unwrap();
    let error = blobs
        .put(announced("right"), body(&[b"wrong"]))
        .await
        .unwrap_err();
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
    blobs.put(announced(8), body(&[b"12345678"])).await.unwrap();
    // It is refused before the first byte: a body that breaks off is not even looked at.
    let error = blobs.put(announced(9), broken(b"")).await.unwrap_err();
    assert!(
        matches!(error, PutError::TooLarge { limit: 8 }),
        "{error:?}"
    );
    let error = blobs
        .put(new("key"), body(&[b"12345678", b"9"]))
        .await
        .unwrap_err();
    assert!(
        matches!(error, PutError::TooLarge { limit: 8 }),
        "{error:?}"
    );
    assert_eq!(read(&blobs, "key").await.unwrap(), b"12345678");
    assert_eq!(engines.object_count(), 1);
}

pub async fn an_upload_that_was_given_up_is_collected_and_cannot_be_finished(
    engines: &mut dyn TestEngines,
) {
    // To others, whoever has not spoken just now has died.
    let impatient = engines.blobs_with(Settings {
        abandoned_after: Duration::ZERO,
        ..Settings::default()
    });
    let blobs = engines.blobs();
    blobs.put(new("key"), body(&[b"old"])).await.unwrap();

    // It only slept, and comes back too late.
    let (feed, eaten) = fed();
    let slow = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.put(new("key"), eaten).await }
    });
    feed.send("a".into()).await.unwrap();
    feed.send("b".into()).await.unwrap();
    assert_eq!(impatient.collect().await.unwrap().removed, 1);
    assert_eq!(blobs.collect().await.unwrap().removed, 0);
    drop(feed);
    let error = slow.await.unwrap().unwrap_err();
    assert!(
        matches!(error, PutError::Abandoned | PutError::Engine(_)),
        "{error:?}"
    );
    assert_eq!(read(&blobs, "key").await.unwrap(), b"old");
    impatient.collect().await.unwrap();
    assert_eq!(engines.object_count(), 1);
}

pub async fn an_upload_whose_sender_went_away_leaves_nothing(engines: &mut dyn TestEngines) {
    let blobs = engines.blobs();
    let (feed, eaten) = fed();
    let cut_off = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.put(new("key"), eaten).await }
    });
    feed.send("a".into()).await.unwrap();
    feed.send("b".into()).await.unwrap();
    cut_off.abort();
    assert!(cut_off.await.unwrap_err().is_cancelled());
    eventually(
        "no byte is left",
        EVENTUALLY_TIMEOUT,
        async || match engines.object_count() {
            0 => Ok(()),
            left => Err(format!("{left} objects")),
        },
    )
    .await;
    // What was on its way then is looked for once more.
    let impatient = engines.blobs_with(Settings {
        abandoned_after: Duration::ZERO,
        ..Settings::default()
    });
    assert_eq!(impatient.collect().await.unwrap().removed, 1);
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
    let blobs = Blobs::new(
        Arc::clone(&records) as _,
        engines.objects(),
        Settings {
            renew_every: Duration::from_millis(20),
            ..Settings::default()
        },
    );
    let (feed, eaten) = fed();
    let upload = tokio::spawn(async move { blobs.put(new("key"), eaten).await });
    feed.send("a".into()).await.unwrap();
    feed.send("b".into()).await.unwrap();
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
            false => Err(EngineError::Unavailable {
                engine: "the deaf",
                reason: "what was that?".into(),
            }),
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
    let (feed, eaten) = fed();
    let upload = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.put(new("key"), eaten).await }
    });
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
