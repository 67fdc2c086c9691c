//! Reads and writes blobs by digest in containerd's content store.
//!
//! ```text
//!   open ──► Present                        somebody has it already
//!        └─► Ingest at some offset ──► write, write, … ──► commit   (digest and size checked by containerd too)
//!                    │ dropped                 │
//!                    └── stays, to be resumed ◄┘                    or abort: gone
//! ```
//!
//! The one subtlety of the protocol (containerd `services/content/contentserver`): a write at offset 0 truncates what is
//! there, a commit at offset 0 as well; every other offset must be exactly the current one.

use std::collections::HashMap;
use std::time::Duration;

use bismuth_base::Backoff;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{
    AbortRequest, Info, InfoRequest, ReadContentRequest, UpdateRequest, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::digest::Digest;
use super::error::{ImageError, Result};
use crate::client::CallClass::{self, Create, Pull, Quick};
use crate::client::{Containerd, NamespacedChannel};
use crate::error::{Error, unless_exists, unless_missing};

/// Bytes per write message. containerd's own client uses 1 MiB; its server takes at most 16 MiB.
pub(crate) const CHUNK: usize = 1 << 20;
/// How often, and after which waits, an ingest is asked for that somebody else holds: containerd lets go of it when it notices that
/// the other's stream is gone, which takes milliseconds. In all 10 s at most.
const LOCKED_ATTEMPTS: u32 = 10;
const LOCKED_BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));

/// The content store, as seen through one handle (whose lease, if any, holds what is written).
#[derive(Clone)]
pub(crate) struct ContentStore {
    containerd: Containerd,
}

/// What [`ContentStore::open`] finds.
#[expect(
    clippy::large_enum_variant,
    reason = "one per transfer, taken apart at once"
)]
pub(crate) enum Opened {
    /// The blob is there.
    Present,
    /// The blob is to be written, from the ingest's offset on.
    Ingest(Ingest),
}

/// A blob that is being written. Dropped without commit it stays in containerd, to be resumed or collected with its lease.
pub(crate) struct Ingest {
    containerd: Containerd,
    digest: Digest,
    size: u64,
    offset: u64,
    requests: mpsc::Sender<WriteContentRequest>,
    responses: Streaming<WriteContentResponse>,
}

impl ContentStore {
    pub fn new(containerd: Containerd) -> Self {
        Self { containerd }
    }

    fn client(&self) -> ContentClient<NamespacedChannel> {
        ContentClient::new(self.containerd.bulk_channel())
            .max_decoding_message_size(crate::client::MAX_MESSAGE)
    }

    /// Size and labels of a blob, or `None`.
    pub async fn info(&self, digest: &Digest) -> Result<Option<Info>> {
        // A small call: not on the channel that moves layers.
        let mut client = ContentClient::new(self.containerd.channel());
        let request = InfoRequest {
            digest: digest.to_string(),
        };
        let info = self.containerd.call(
            Quick,
            "look up content",
            digest.as_str(),
            client.info(request),
        );
        Ok(unless_missing(info.await)?.and_then(|answer| answer.info))
    }

    /// A whole small blob, or `None`. What is longer than `limit` is refused; what does not match its digest as well.
    pub async fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let mut client = ContentClient::new(self.containerd.channel())
            .max_decoding_message_size(crate::client::MAX_MESSAGE);
        let request = ReadContentRequest {
            digest: digest.to_string(),
            ..ReadContentRequest::default()
        };
        let read = async {
            let mut stream = client.read(request).await?.into_inner();
            let mut data = Vec::new();
            while let Some(part) = stream.message().await? {
                data.extend_from_slice(&part.data);
                if data.len() as u64 > limit {
                    return Ok(None);
                }
            }
            Ok(Some(data))
        };
        let read = self
            .containerd
            .exchange(Quick, "read content", digest.as_str(), read);
        let Some(data) = unless_missing(read.await)? else {
            return Ok(None);
        };
        let data = data.ok_or_else(|| ImageError::Malformed {
            what: "content",
            object: digest.to_string(),
            reason: format!("longer than {limit} bytes"),
        })?;
        digest.check("containerd's content store", digest.same_of(&data))?;
        Ok(Some(data))
    }

    /// Sets labels of a blob, leaving its others alone.
    pub async fn label(&self, digest: &Digest, labels: HashMap<String, String>) -> Result<()> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let request = UpdateRequest {
            info: Some(Info {
                digest: digest.to_string(),
                labels,
                ..Info::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let mut client = ContentClient::new(self.containerd.channel());
        let update = client.update(request);
        self.containerd
            .call(Quick, "label content", digest.as_str(), update)
            .await?;
        Ok(())
    }

    /// Writes a whole small blob, unless it is there already, and makes sure that it has `labels`.
    pub async fn put(
        &self,
        digest: &Digest,
        data: &[u8],
        labels: HashMap<String, String>,
    ) -> Result<()> {
        if let Opened::Ingest(mut ingest) = self.open(digest, data.len() as u64).await? {
            ingest.restart();
            for chunk in data.chunks(CHUNK) {
                ingest.write(chunk.to_vec()).await?;
            }
            if ingest.commit(labels.clone()).await? {
                return Ok(());
            }
        }
        if labels.is_empty() {
            Ok(())
        } else {
            self.label(digest, labels).await
        }
    }

    /// Begins to write a blob, or goes on where an interrupted write stopped.
    pub async fn open(&self, digest: &Digest, size: u64) -> Result<Opened> {
        let mut delays = LOCKED_BACKOFF.delays();
        for _ in 1..LOCKED_ATTEMPTS {
            match self.try_open(digest, size).await {
                Err(Error::Unavailable(failure)) if failure.source.message().contains("locked") => {
                    tokio::time::sleep(delays.next_delay()).await;
                }
                other => return Ok(other?),
            }
        }
        Ok(self.try_open(digest, size).await?)
    }

    async fn try_open(&self, digest: &Digest, size: u64) -> Result<Opened, Error> {
        let act = "begin to write content";
        let (requests, receiver) = mpsc::channel(1);
        let stat = write_request(WriteAction::Stat, digest, size);
        // There is room for one message and nobody else to fill it.
        requests.try_send(stat).map_err(|_| closed(act, digest))?;
        let mut client = self.client();
        let begin = async {
            let mut responses = client
                .write(ReceiverStream::new(receiver))
                .await?
                .into_inner();
            let first = responses.message().await?;
            Ok((responses, first))
        };
        let begun = self
            .containerd
            .exchange(Create, act, digest.as_str(), begin);
        let Some((responses, first)) = unless_exists(begun.await)? else {
            return Ok(Opened::Present);
        };
        let status = first.ok_or_else(|| closed(act, digest))?;
        Ok(Opened::Ingest(Ingest {
            containerd: self.containerd.clone(),
            digest: digest.clone(),
            size,
            offset: u64::try_from(status.offset).unwrap_or(0),
            requests,
            responses,
        }))
    }

    /// Drops what was written of an unfinished blob. Nothing there is fine.
    async fn abort(&self, digest: &Digest) -> Result<()> {
        let mut client = ContentClient::new(self.containerd.channel());
        let request = AbortRequest {
            r#ref: reference(digest),
        };
        let abort = client.abort(request);
        let aborted =
            self.containerd
                .call(Create, "drop unfinished content", digest.as_str(), abort);
        unless_missing(aborted.await)?;
        Ok(())
    }
}

/// The name of the ingest: ours alone, one per blob, so that it is found again after a restart.
fn reference(digest: &Digest) -> String {
    format!("bismuth-{digest}")
}

fn write_request(action: WriteAction, digest: &Digest, size: u64) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: reference(digest),
        total: size as i64,
        expected: digest.to_string(),
        ..WriteContentRequest::default()
    }
}

fn closed(act: &'static str, digest: &Digest) -> Error {
    let status = tonic::Status::unavailable("the write stream ended early");
    Error::from_status(act, digest.as_str(), status)
}

impl Ingest {
    /// How many bytes are there.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<()> {
        let offset = self.offset + data.len() as u64;
        let request = WriteContentRequest {
            offset: self.offset as i64,
            data,
            ..write_request(WriteAction::Write, &self.digest, self.size)
        };
        let status = self.exchange("write content", request, Create).await?;
        if u64::try_from(status.offset) != Ok(offset) {
            let reason = format!("{} bytes are there where {offset} should be", status.offset);
            let error = Error::MalformedAnswer {
                act: "write content",
                object: self.digest.to_string(),
                reason,
            };
            return Err(error.into());
        }
        self.offset = offset;
        Ok(())
    }

    /// Makes the blob visible under its digest. Says whether it was this ingest that made it: `false` if somebody else was
    /// first, in which case `labels` are not set.
    pub async fn commit(mut self, labels: HashMap<String, String>) -> Result<bool> {
        let request = WriteContentRequest {
            offset: self.size as i64,
            labels,
            ..write_request(WriteAction::Commit, &self.digest, self.size)
        };
        // Flushes to disk: as long as the disk needs for a layer.
        let committed = self.exchange("commit content", request, Pull).await;
        match unless_exists(committed) {
            Ok(made) => Ok(made.is_some()),
            Err(error) => match mismatch(&self.digest, &error) {
                Some(mismatch) => {
                    self.discard().await?;
                    Err(mismatch)
                }
                None => Err(error.into()),
            },
        }
    }

    /// Begins again from nothing: the next write goes to offset 0, which truncates.
    pub fn restart(&mut self) {
        self.offset = 0;
    }

    /// Ends the write and drops what was written. The stream is ended first and its end awaited: containerd 1.6 removes an
    /// ingest that is still open only in part.
    pub async fn discard(self) -> Result<()> {
        let Self {
            containerd,
            digest,
            requests,
            mut responses,
            ..
        } = self;
        drop(requests);
        // However it ends, the writer is closed.
        let end = async { while let Ok(Some(_)) = responses.message().await {} };
        containerd
            .in_time(Create, "end the write of", digest.as_str(), end)
            .await?;
        ContentStore::new(containerd).abort(&digest).await
    }

    async fn exchange(
        &mut self,
        act: &'static str,
        request: WriteContentRequest,
        class: CallClass,
    ) -> Result<WriteContentResponse, Error> {
        let exchange = async {
            // A closed channel means that the stream ended; why stands in the response.
            let _ = self.requests.send(request).await;
            self.responses.message().await
        };
        let answer = self
            .containerd
            .exchange(class, act, self.digest.as_str(), exchange);
        answer.await?.ok_or_else(|| closed(act, &self.digest))
    }
}

/// containerd says a wrong digest in words only: "unexpected commit digest sha256:…, expected sha256:…".
fn mismatch(expected: &Digest, error: &Error) -> Option<ImageError> {
    let text = error.to_string();
    let rest = text.split_once("unexpected commit digest ")?.1;
    let actual = rest.split(',').next().unwrap_or(rest).trim().to_owned();
    let origin = "an earlier, interrupted pull";
    Some(ImageError::mismatch("blob", origin, expected, actual))
}
