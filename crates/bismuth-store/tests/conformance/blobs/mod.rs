//! Conformance of the blob store on every pair of engines.

pub mod basics;
pub mod faults;
pub mod quota;

use std::io;
use std::ops::Range;

use bismuth_store::blobs::{Blob, Blobs, NewBlob};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;

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

/// A body of what is sent, which ends when the sender does.
pub fn fed() -> (mpsc::Sender<Bytes>, BoxStream<'static, io::Result<Bytes>>) {
    let (feed, eaten) = mpsc::channel(1);
    let body = stream::unfold(eaten, async |mut eaten: mpsc::Receiver<Bytes>| {
        let bytes = eaten.recv().await?;
        Some((Ok(bytes), eaten))
    });
    (feed, Box::pin(body))
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
    let (_, body) = found.body.unwrap();
    let chunks: Vec<Bytes> = body.try_collect().await.unwrap();
    Some(chunks.concat())
}
