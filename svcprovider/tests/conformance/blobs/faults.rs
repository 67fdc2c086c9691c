//! Uploads that go wrong.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use sha2::{Digest as _, Sha256};
use svcprovider::blobs::{NewBlob, PutError, Settings};
use svcprovider::records::Space;
use tokio::sync::mpsc;

use super::{body, broken, new, read};
use crate::world::World;

pub async fn a_broken_upload_leaves_the_old_blob_and_nothing_else(world: &mut dyn World) {
    let blobs = world.blobs();
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
    assert_eq!(world.object_count(), 1);
    let left = world.records().usage("", Space::Object).await.unwrap();
    assert_eq!(left.count, 0);
    assert_eq!(blobs.usage("group").await.unwrap().count, 1);
}

pub async fn bytes_that_are_not_those_announced_are_refused(world: &mut dyn World) {
    let blobs = world.blobs();
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
    assert_eq!(world.object_count(), 1);
}

pub async fn what_is_too_large_is_refused_before_and_while_it_comes(world: &mut dyn World) {
    let blobs = world.blobs_with(Settings {
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
    assert_eq!(world.object_count(), 1);
}

/// A body of what is sent, which ends when the sender does.
fn fed() -> (
    mpsc::Sender<Bytes>,
    stream::BoxStream<'static, std::io::Result<Bytes>>,
) {
    let (feed, eaten) = mpsc::channel(1);
    let body = stream::unfold(eaten, async |mut eaten: mpsc::Receiver<Bytes>| {
        let bytes = eaten.recv().await?;
        Some((Ok(bytes), eaten))
    });
    (feed, Box::pin(body))
}

pub async fn an_upload_that_was_given_up_is_collected_and_cannot_be_finished(
    world: &mut dyn World,
) {
    // To others, whoever has not spoken just now has died.
    let impatient = world.blobs_with(Settings {
        abandoned_after: Duration::ZERO,
        ..Settings::default()
    });
    let blobs = world.blobs();
    blobs.put(new("key"), body(&[b"old"])).await.unwrap();

    // A process that was killed: nobody goes on with it.
    let (feed, eaten) = fed();
    let dead = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.put(new("key"), eaten).await }
    });
    feed.send("a".into()).await.unwrap();
    feed.send("b".into()).await.unwrap();
    dead.abort();
    assert!(dead.await.unwrap_err().is_cancelled());
    assert_eq!(blobs.collect().await.unwrap().removed, 0);
    assert_eq!(impatient.collect().await.unwrap().removed, 1);

    // One that only slept, and comes back too late.
    let (feed, eaten) = fed();
    let slow = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.put(new("key"), eaten).await }
    });
    feed.send("a".into()).await.unwrap();
    feed.send("b".into()).await.unwrap();
    assert_eq!(impatient.collect().await.unwrap().removed, 1);
    drop(feed);
    let error = slow.await.unwrap().unwrap_err();
    assert!(
        matches!(error, PutError::Abandoned | PutError::Engine(_)),
        "{error:?}"
    );
    assert_eq!(read(&blobs, "key").await.unwrap(), b"old");
    impatient.collect().await.unwrap();
    assert_eq!(world.object_count(), 1);
}

pub async fn an_upload_that_goes_on_is_left_alone(world: &mut dyn World) {
    let blobs = world.blobs_with(Settings {
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
