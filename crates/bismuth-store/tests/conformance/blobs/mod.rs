//! Conformance of the blob store on every pair of engines.

pub mod basics;
pub mod faults;
pub mod quota;

use std::io;
use std::ops::Range;

use bismuth_store::blobs::{Blob, Blobs, NewBlob, PutError, StoredBlob};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub fn new(key: &str) -> NewBlob {
    NewBlob {
        group: "group".into(),
        key: key.into(),
        ..NewBlob::default()
    }
}

/// A body of these chunks.
pub fn body(chunks: &[&[u8]]) -> BoxStream<'static, io::Result<Bytes>> {
    let chunks: Vec<_> = chunks
        .iter()
        .map(|it| Ok(Bytes::copy_from_slice(it)))
        .collect();
    Box::pin(stream::iter(chunks))
}

/// A body that breaks off after this chunk.
pub fn broken(chunk: &[u8]) -> BoxStream<'static, io::Result<Bytes>> {
    let chunks = [
        Ok(Bytes::copy_from_slice(chunk)),
        Err(io::ErrorKind::ConnectionReset.into()),
    ];
    Box::pin(stream::iter(chunks))
}

type Upload = JoinHandle<Result<StoredBlob, PutError>>;

/// Begins to upload what is sent; the body ends when the sender does.
pub fn begin_upload(blobs: &Blobs, blob: NewBlob) -> (mpsc::Sender<Bytes>, Upload) {
    let (feed, eaten) = mpsc::channel(1);
    let body = stream::unfold(eaten, async |mut eaten: mpsc::Receiver<Bytes>| {
        let bytes = eaten.recv().await?;
        Some((io::Result::Ok(bytes), eaten))
    });
    let (blobs, body) = (blobs.clone(), Box::pin(body));
    let upload = tokio::spawn(async move { blobs.put(blob, body).await });
    (feed, upload)
}

/// Begins to upload `ab`, of which `b` is taken when `a` has been.
pub async fn begin_small_upload(blobs: &Blobs) -> (mpsc::Sender<Bytes>, Upload) {
    let (feed, upload) = begin_upload(blobs, new("key"));
    feed.send("a".into()).await.unwrap();
    feed.send("b".into()).await.unwrap();
    (feed, upload)
}

/// Stores these bytes.
pub async fn store(blobs: &Blobs, blob: NewBlob, bytes: &[u8]) -> StoredBlob {
    blobs.put(blob, body(&[bytes])).await.unwrap()
}

/// Why these chunks are not stored.
pub async fn not_stored(blobs: &Blobs, blob: NewBlob, chunks: &[&[u8]]) -> PutError {
    blobs.put(blob, body(chunks)).await.unwrap_err()
}

pub fn whole(blob: &Blob) -> Option<Range<u64>> {
    Some(0..blob.size)
}

pub async fn read(blobs: &Blobs, key: &str) -> Option<Vec<u8>> {
    read_range(blobs, key, whole).await
}

pub async fn read_range(
    blobs: &Blobs,
    key: &str,
    select: impl Fn(&Blob) -> Option<Range<u64>> + Send,
) -> Option<Vec<u8>> {
    let found = blobs.get("group", key, select).await.unwrap()?;
    let chunks: Vec<Bytes> = found.body.unwrap().try_collect().await.unwrap();
    Some(chunks.concat())
}
