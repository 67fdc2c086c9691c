//! The suite with objects in S3, and cases in which the server is unavailable.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bismuth_store::objects::s3::{Credentials, S3};
use bismuth_store::objects::{ObjectId, ObjectWriter, Objects};
use bismuth_store::records::{EngineError, Records};
use bismuth_testkit::s3::{KEY_ID, SECRET_KEY};
use bismuth_testkit::{S3Server, eventually};
use bytes::Bytes;
use futures_util::TryStreamExt as _;

use crate::blobs::begin_upload;
use crate::embedded::OnDisk;
use crate::test_engines::{AWAY_BOUND, EVENTUALLY_TIMEOUT, TestEngines, away, failure};

/// What two calls take then, one after the other.
const ABORT_BOUND: Duration = Duration::from_millis(2500);
/// What a call may take in the middle of a stream.
const STREAM_BOUND: Duration = Duration::from_millis(11_500);

/// Records as in other test engines, objects in a bucket of a server of its own.
pub struct OnS3<W> {
    inner: W,
    server: S3Server,
    objects: Arc<dyn Objects>,
}

impl<W: TestEngines> OnS3<W> {
    pub async fn new(inner: W) -> Self {
        let server = serving().await;
        let objects = open(&server);
        Self {
            inner,
            server,
            objects,
        }
    }
}

async fn serving() -> S3Server {
    let server = S3Server::start().await.unwrap();
    server.create_bucket("blobs").unwrap();
    server
}

fn open(server: &S3Server) -> Arc<dyn Objects> {
    open_at(&server.url("blobs"), SECRET_KEY)
}

fn open_at(url: &str, secret_key: &str) -> Arc<dyn Objects> {
    Arc::new(S3::open_as(url, Credentials::new(KEY_ID, secret_key)).unwrap())
}

#[async_trait]
impl<W: TestEngines> TestEngines for OnS3<W> {
    fn records(&self) -> Arc<dyn Records> {
        self.inner.records()
    }

    fn others(&self) -> Arc<dyn Records> {
        self.inner.others()
    }

    fn objects(&self) -> Arc<dyn Objects> {
        self.objects.clone()
    }

    fn object_count(&self) -> usize {
        self.server.contents().unwrap().len()
    }

    async fn reopen(&mut self) {
        self.inner.reopen().await;
    }
}

/// Runs every case that has to do with objects, and says which failed.
macro_rules! s3_cases {
    ($($first:ident $(::$rest:ident)+,)*) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn objects_in_s3_answer_as_the_suite_says() {
            let mut failed = Vec::new();
            $(
                if stringify!($first) != "records" {
                    let mut engines = OnS3::new(OnDisk::new()).await;
                    let case = crate::$first$(::$rest)+(&mut engines);
                    failed.extend(failure(stringify!($first$(::$rest)+), case).await);
                }
            )*
            assert!(failed.is_empty(), "failed: {failed:?} (why is said above)");
        }
    };
}
crate::for_every_case!(s3_cases);

async fn store(objects: &Arc<dyn Objects>, bytes: Bytes) -> Result<ObjectId, EngineError> {
    let id = ObjectId::random();
    let mut writer = objects.create(id, "group").await?;
    writer.write(bytes).await?;
    writer.finish().await?;
    Ok(id)
}

async fn read(objects: &Arc<dyn Objects>, id: ObjectId, bytes: u64) -> Result<usize, EngineError> {
    let stream = objects.read(id, 0..bytes).await?.unwrap();
    let chunks: Vec<Bytes> = stream.try_collect().await?;
    Ok(chunks.iter().map(Bytes::len).sum())
}

fn zeros(mebibytes: usize) -> Bytes {
    Bytes::from(vec![0; mebibytes << 20])
}

async fn all_away(objects: &Arc<dyn Objects>, id: ObjectId) {
    tokio::join!(
        away(AWAY_BOUND, read(objects, id, 3)),
        away(AWAY_BOUND, read(objects, id, 0)),
        away(AWAY_BOUND, store(objects, "new".into())),
        away(AWAY_BOUND, objects.delete(id)),
        away(AWAY_BOUND, objects.check()),
    );
    // Large ones are refused before they are sent.
    away(AWAY_BOUND, store(objects, zeros(6))).await;
}

async fn comes_back(objects: &Arc<dyn Objects>) {
    eventually("S3 answers", EVENTUALLY_TIMEOUT, || objects.check()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_that_is_away_is_said_to_be_within_a_second_and_found_when_it_is_back() {
    let mut server = serving().await;
    let objects = open(&server);
    let id = store(&objects, "old".into()).await.unwrap();
    server.kill().await.unwrap();
    all_away(&objects, id).await;
    server.restart().await.unwrap();
    comes_back(&objects).await;
    assert_eq!(read(&objects, id, 3).await, Ok(3));

    server.process().unwrap().pause().unwrap();
    all_away(&objects, id).await;
    server.process().unwrap().resume().unwrap();
    comes_back(&objects).await;
    // The server may have done what nobody waited for.
    let id = store(&objects, "newer".into()).await.unwrap();
    assert_eq!(read(&objects, id, 5).await, Ok(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_opened_without_a_server_are_there_when_it_comes() {
    let mut server = serving().await;
    server.kill().await.unwrap();
    let objects = open(&server);
    all_away(&objects, ObjectId(7)).await;
    server.restart().await.unwrap();
    comes_back(&objects).await;
    store(&objects, "value".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_freezes_in_the_middle_of_a_stream_is_waited_for_so_long_and_no_longer() {
    let server = serving().await;
    let objects = open(&server);
    // More than fits into the buffers of a connection.
    let id = store(&objects, zeros(40)).await.unwrap();
    let mut reading = objects.read(id, 0..40 << 20).await.unwrap().unwrap();
    reading.try_next().await.unwrap().unwrap();
    let mut writer = objects.create(ObjectId::random(), "group").await.unwrap();
    writer.write(zeros(6)).await.unwrap();
    server.process().unwrap().pause().unwrap();
    let written = async {
        writer.write(zeros(6)).await?;
        writer.finish().await
    };
    tokio::join!(
        away(STREAM_BOUND, reading.try_collect::<Vec<_>>()),
        away(STREAM_BOUND, written),
    );
    server.process().unwrap().resume().unwrap();
    comes_back(&objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_dropped_is_aborted() {
    let server = serving().await;
    let objects = open(&server);
    let mut writer = objects.create(ObjectId::random(), "group").await.unwrap();
    writer.write(zeros(11)).await.unwrap();
    assert!(!server.contents().unwrap().is_empty());
    drop(writer);
    eventually("nothing is left", EVENTUALLY_TIMEOUT, async || {
        let left = server.contents().unwrap();
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    })
    .await;
}

/// Drops an upload with a part on its way to a server that is frozen, after `cut_off` has done to its writer what it does, and deletes the object.
/// The server goes on when deleting has outlasted both an abort and its own first request, but not the part.
async fn dropped_and_deleted(cut_off: impl AsyncFnOnce(&mut dyn ObjectWriter)) {
    let server = serving().await;
    let objects = open(&server);
    let id = ObjectId::random();
    let mut writer = objects.create(id, "group").await.unwrap();
    writer.write(zeros(6)).await.unwrap();
    server.process().unwrap().pause().unwrap();
    cut_off(&mut *writer).await;
    drop(writer);
    let mut deleting = tokio::spawn(async move { objects.delete(id).await });
    let early = tokio::time::timeout(ABORT_BOUND, &mut deleting).await;
    assert!(early.is_err(), "it did not wait for the part: {early:?}");
    server.process().unwrap().resume().unwrap();
    deleting.await.unwrap().unwrap();
    assert_eq!(server.contents().unwrap(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_on_its_way_is_waited_for_before_its_upload_is_deleted() {
    dropped_and_deleted(async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_is_waited_for_also_when_its_writer_was_cut_off_while_it_waited_itself() {
    dropped_and_deleted(async |writer| {
        let more = writer.write(zeros(6));
        let cut_off = tokio::time::timeout(Duration::from_millis(100), more).await;
        assert!(cut_off.is_err(), "{cut_off:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_in_the_middle_of_an_upload_leaves_the_old_blob_and_no_part() {
    let mut engines = OnS3::new(OnDisk::new()).await;
    let blobs = engines.blobs();
    let old = crate::blobs::body(&[b"old"]);
    blobs.put(crate::blobs::new("key"), old).await.unwrap();
    let (feed, upload) = begin_upload(&blobs, crate::blobs::new("key"));
    for _ in 0..4 {
        feed.send(zeros(3)).await.unwrap();
    }
    eventually("a part is there", EVENTUALLY_TIMEOUT, async || {
        match engines.object_count() {
            // The old object, the upload, its note and its part.
            4.. => Ok(()),
            count => Err(count),
        }
    })
    .await;
    engines.server.kill().await.unwrap();
    // Whether anybody takes it depends on what is noticed first.
    let _ = feed.send(zeros(6)).await;
    drop(feed);
    upload.await.unwrap().unwrap_err();
    engines.server.restart().await.unwrap();
    comes_back(&engines.objects()).await;
    assert_eq!(crate::blobs::read(&blobs, "key").await.unwrap(), b"old");
    let collected = engines
        .blobs_that_abandon_at_once()
        .collect()
        .await
        .unwrap();
    assert_eq!((collected.removed, collected.failed), (1, None));
    assert_eq!(engines.object_count(), 1, "{:?}", engines.server.contents());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_disk_is_full_counts_as_away_and_keeps_what_it_has() {
    let server = S3Server::start_with_disk_of(16 << 20).await.unwrap();
    server.create_bucket("blobs").unwrap();
    let objects = open(&server);
    let kept = store(&objects, "value".into()).await.unwrap();
    let filler = server.fill_disk().unwrap();
    for new in [zeros(1), zeros(6)] {
        away(STREAM_BOUND, store(&objects, new)).await;
    }
    assert_eq!(read(&objects, kept, 5).await, Ok(5));
    std::fs::remove_file(filler).unwrap();
    store(&objects, zeros(6)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_bucket_key_or_scheme_is_not_reported_as_a_missing_object() {
    let server = serving().await;
    let id = store(&open(&server), "value".into()).await.unwrap();
    let https = server.url("blobs").replace("http://", "https://");
    for (url, secret_key, words) in [
        (server.url("elsewhere"), SECRET_KEY, "NoSuchBucket"),
        (server.url("blobs"), "wrong", "SignatureDoesNotMatch"),
        // There is no TLS on this port.
        (https, SECRET_KEY, "corrupt message"),
    ] {
        let objects = open_at(&url, secret_key);
        for error in [
            read(&objects, id, 5).await.map(drop),
            objects.delete(id).await,
            objects.check().await,
        ] {
            let error = error.unwrap_err();
            let away = matches!(error, EngineError::Unavailable { .. });
            let text = error.to_string();
            assert!(away && text.contains(words), "{text}");
            assert!(!text.contains("wrong"), "{text}");
        }
    }
    assert_eq!(read(&open(&server), id, 5).await, Ok(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_renewed_in_their_file_are_used_without_a_restart() {
    let server = serving().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials");
    let write = |secret: &str| {
        let id = format!("[default]\naws_access_key_id = {KEY_ID}");
        std::fs::write(&path, format!("{id}\naws_secret_access_key = {secret}\n")).unwrap();
    };
    write("wrong");
    let credentials = Credentials::in_file(&path, "default").unwrap();
    let objects = S3::open_as(&server.url("blobs"), credentials).unwrap();
    away(AWAY_BOUND, objects.check()).await;
    write(SECRET_KEY);
    eventually("the new ones are used", EVENTUALLY_TIMEOUT, || {
        objects.check()
    })
    .await;
}
