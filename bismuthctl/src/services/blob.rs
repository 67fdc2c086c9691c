//! `blob`: uploads, lists and deletes blobs, streamed.
//!
//! ```text
//!  put ─► is it there? ─┬─ no ─► POST (creates) ─── 409: somebody created it ───┐
//!            ▲          └─ yes ─► PUT (replaces) ── 404: somebody deleted it ───┤
//!            └───────────── a file is read again; a pipe is used up ◄───────────┘
//! ```
//!
//! svcprovider creates or replaces and does not do whichever fits. Asking first costs a round trip; sending first would use up a
//! pipe for a refusal. Each write is atomic and says what it expects, so whoever is last wins, and nothing is half there.

use std::sync::{Arc, Mutex, PoisonError};

use bismuth_operator::{Call, CallError, OperatorClient};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::ReaderStream;

use super::download::{self, expected_digest};
use super::value_source::ValueSource;
use super::{etag, pagination, print_written, surface};
use crate::args::{BlobCommand, BlobPut, KeyArg, List, OnServices};
use crate::byte_size;
use crate::client::Body;
use crate::error::Error;
use crate::output::{Output, or_dash, table, time};

/// Each one lost means that somebody else wrote or deleted the blob at that moment.
const ATTEMPTS: usize = 8;
/// Read and sent at a time.
const BLOCK: usize = 64 * 1024;

type Hasher = Arc<Mutex<Sha256>>;

#[derive(Serialize, Deserialize)]
struct BlobListEntry {
    key: String,
    etag: String,
    size: u64,
    content_type: Option<String>,
    modified_ms: u64,
    /// Not of a blob that svcprovider cannot read.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

pub(crate) async fn run(
    args: OnServices<BlobCommand>,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let surface = surface(&args.services)?;
    match args.command {
        BlobCommand::Get { at, file } => {
            download::get(&surface, &at.of.group, &at.key, file, output).await
        }
        BlobCommand::Put(put) => {
            let etag = set(&surface, &put).await?;
            print_written(&put.at.key, &etag, output)
        }
        BlobCommand::List(which) => list(&surface, &which, output).await,
        BlobCommand::Delete(KeyArg { key, of }) => {
            surface
                .ask(Call::blob(Method::DELETE, &of.group, &key))
                .await?;
            eprintln!("blob {key} of group {} is deleted", of.group);
            Ok(())
        }
    }
}

async fn set(surface: &OperatorClient, put: &BlobPut) -> Result<String, Error> {
    for _ in 0..ATTEMPTS {
        let there = is_there(surface, put).await?;
        let (method, lost) = if there {
            (Method::PUT, StatusCode::NOT_FOUND)
        } else {
            (Method::POST, StatusCode::CONFLICT)
        };
        match upload(surface, put, method).await {
            Err(Error::Service(error)) if error.refused_with() == Some(lost) => {
                if put.source == ValueSource::Stdin {
                    break;
                }
            }
            done => return done,
        }
    }
    Err(Error::BlobContended {
        key: put.at.key.clone(),
    })
}

async fn is_there(surface: &OperatorClient, put: &BlobPut) -> Result<bool, CallError> {
    let head = Call::blob(Method::HEAD, &put.at.of.group, &put.at.key);
    match surface.ask(head).await {
        Ok(_) => Ok(true),
        Err(error) if error.refused_with() == Some(StatusCode::NOT_FOUND) => Ok(false),
        // An answer to HEAD has no body that could say more.
        Err(error) => Err(error),
    }
}

async fn upload(surface: &OperatorClient, put: &BlobPut, method: Method) -> Result<String, Error> {
    let mut call = Call::blob(method, &put.at.of.group, &put.at.key);
    if let Some(content_type) = &put.content_type {
        call = call.header(CONTENT_TYPE, content_type.clone());
    }
    let hasher = Hasher::default();
    let (body, length) = open(&put.source, hasher.clone()).await?;
    if let Some(length) = length {
        call = call.header(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let answer = surface.call(call, body).await?;
    let sent = hasher.lock().unwrap_or_else(PoisonError::into_inner);
    let sent: [u8; 32] = sent.clone().finalize().into();
    match expected_digest(answer.headers()) {
        Some(stored) if stored != sent => Err(Error::Digest {
            key: put.at.key.clone(),
        }),
        _ => Ok(etag(&answer)),
    }
}

/// The bytes, and how many they are where that is known: a file that shrinks meanwhile is no blob then.
async fn open(source: &ValueSource, hasher: Hasher) -> Result<(Body, Option<u64>), Error> {
    match source {
        ValueSource::File(path) => {
            let failed = |source| Error::Read {
                path: path.clone(),
                source,
            };
            let file = tokio::fs::File::open(path).await.map_err(failed)?;
            let metadata = file.metadata().await.map_err(failed)?;
            if metadata.is_file() {
                let length = metadata.len();
                return Ok((streamed(file.take(length), hasher), Some(length)));
            }
            Ok((streamed(file, hasher), None))
        }
        ValueSource::Stdin => Ok((streamed(tokio::io::stdin(), hasher), None)),
        ValueSource::Literal(text) => {
            Ok((streamed(std::io::Cursor::new(text.clone()), hasher), None))
        }
    }
}

fn streamed(reader: impl AsyncRead + Send + Sync + 'static, hasher: Hasher) -> Body {
    let blocks = ReaderStream::with_capacity(reader, BLOCK);
    let frames = blocks.map_ok(move |block: Bytes| {
        let mut hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner);
        hasher.update(&block);
        Frame::data(block)
    });
    StreamBody::new(frames).boxed()
}

async fn list(
    surface: &OperatorClient,
    which: &List,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let call = Call::blob(Method::GET, &which.of.group, "")
        .query("details", "true")
        .query("prefix", &which.prefix);
    let blobs: Vec<BlobListEntry> = pagination::all(surface, call).await?;
    output.answer(&blobs, || {
        let row = |blob: &BlobListEntry| {
            [
                blob.key.clone(),
                byte_size::show(blob.size),
                or_dash(blob.content_type.as_ref()),
                time(blob.modified_ms),
                or_dash(blob.sha256.as_ref()),
            ]
        };
        let header = ["KEY", "SIZE", "TYPE", "MODIFIED", "SHA-256"];
        table(header, blobs.iter().map(row))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_may_be_listed_without_its_digest() {
        let listed = r#"{"key":"k","etag":"\"1\"","size":3,"modified_ms":5}"#;
        let listed: BlobListEntry = serde_json::from_str(listed).unwrap();
        assert_eq!((listed.sha256, listed.content_type), (None, None));
    }
}
