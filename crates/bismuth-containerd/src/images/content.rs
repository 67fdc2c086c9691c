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
use crate::client::{CallClass, Containerd, NamespacedChannel};
use crate::error::Error;

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
        match self
            .containerd
            .call(
                CallClass::Quick,
                "look up content",
                digest.as_str(),
                client.info(request),
            )
            .await
        {
            Ok(answer) => Ok(answer.info),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A whole small blob, or `None`. What is longer than `limit` is refused; what does not match its digest as well.
    pub async fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let act = "read content";
        let mut client = ContentClient::new(self.containerd.channel())
            .max_decoding_message_size(crate::client::MAX_MESSAGE);
        let request = ReadContentRequest {
            digest: digest.to_string(),
            offset: 0,
            size: 0,
        };
        let deadline = self.containerd.deadlines().of(CallClass::Quick);
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
        let late = || Error::DeadlineExceeded {
            act,
            object: digest.to_string(),
            after: deadline,
        };
        let read = tokio::time::timeout(deadline, read)
            .await
            .map_err(|_| late())?;
        let data = match read.map_err(|status| Error::from_status(act, digest.as_str(), status)) {
            Ok(Some(data)) => data,
            Ok(None) => {
                let reason = format!("longer than {limit} bytes");
                return Err(ImageError::Malformed {
                    what: "content",
                    object: digest.to_string(),
                    reason,
                });
            }
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut hasher = super::digest::Hasher::like(digest);
        hasher.update(&data);
        let actual = hasher.finish();
        if actual != *digest {
            return Err(ImageError::DigestMismatch {
                object: "blob".to_owned(),
                origin: "containerd's content store".to_owned(),
                expected: digest.to_string(),
                actual: actual.to_string(),
            });
        }
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
        self.containerd
            .call(
                CallClass::Quick,
                "label content",
                digest.as_str(),
                client.update(request),
            )
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
        let stat = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference(digest),
            total: size as i64,
            expected: digest.to_string(),
            ..WriteContentRequest::default()
        };
        // There is room for one message and nobody else to fill it.
        requests.try_send(stat).map_err(|_| closed(act, digest))?;
        let mut client = self.client();
        let deadline = self.containerd.deadlines().of(CallClass::Create);
        let begin = async {
            let mut responses = client
                .write(ReceiverStream::new(receiver))
                .await?
                .into_inner();
            let first = responses.message().await?;
            Ok((responses, first))
        };
        let late = |_| Error::DeadlineExceeded {
            act,
            object: digest.to_string(),
            after: deadline,
        };
        match tokio::time::timeout(deadline, begin).await.map_err(late)? {
            Ok((responses, Some(status))) => Ok(Opened::Ingest(Ingest {
                containerd: self.containerd.clone(),
                digest: digest.clone(),
                size,
                offset: u64::try_from(status.offset).unwrap_or(0),
                requests,
                responses,
            })),
            Ok((_, None)) => Err(closed(act, digest)),
            Err(status) => match Error::from_status(act, digest.as_str(), status) {
                error if error.is_already_exists() => Ok(Opened::Present),
                error => Err(error),
            },
        }
    }

    /// Drops what was written of an unfinished blob. Nothing there is fine.
    async fn abort(&self, digest: &Digest) -> Result<()> {
        let mut client = ContentClient::new(self.containerd.channel());
        let request = AbortRequest {
            r#ref: reference(digest),
        };
        let abort = client.abort(request);
        match self
            .containerd
            .call(
                CallClass::Create,
                "drop unfinished content",
                digest.as_str(),
                abort,
            )
            .await
        {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The name of the ingest: ours alone, one per blob, so that it is found again after a restart.
fn reference(digest: &Digest) -> String {
    format!("bismuth-{digest}")
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
            action: WriteAction::Write.into(),
            r#ref: reference(&self.digest),
            total: self.size as i64,
            expected: self.digest.to_string(),
            offset: self.offset as i64,
            data,
            ..WriteContentRequest::default()
        };
        let status = self
            .exchange("write content", request, CallClass::Create)
            .await?;
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
            action: WriteAction::Commit.into(),
            r#ref: reference(&self.digest),
            total: self.size as i64,
            expected: self.digest.to_string(),
            offset: self.size as i64,
            labels,
            ..WriteContentRequest::default()
        };
        // Flushes to disk: as long as the disk needs for a layer.
        match self
            .exchange("commit content", request, CallClass::Pull)
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.is_already_exists() => Ok(false),
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
        let deadline = containerd.deadlines().of(CallClass::Create);
        // However it ends, the writer is closed.
        let end = async { while let Ok(Some(_)) = responses.message().await {} };
        let late = |_| Error::DeadlineExceeded {
            act: "end the write of",
            object: digest.to_string(),
            after: deadline,
        };
        tokio::time::timeout(deadline, end).await.map_err(late)?;
        ContentStore::new(containerd).abort(&digest).await
    }

    async fn exchange(
        &mut self,
        act: &'static str,
        request: WriteContentRequest,
        class: CallClass,
    ) -> Result<WriteContentResponse, Error> {
        let deadline = self.containerd.deadlines().of(class);
        let exchange = async {
            // A closed channel means that the stream ended; why stands in the response.
            let _ = self.requests.send(request).await;
            self.responses.message().await
        };
        let late = |_| Error::DeadlineExceeded {
            act,
            object: self.digest.to_string(),
            after: deadline,
        };
        match tokio::time::timeout(deadline, exchange)
            .await
            .map_err(late)?
        {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(closed(act, &self.digest)),
            Err(status) => Err(Error::from_status(act, self.digest.as_str(), status)),
        }
    }
}

/// containerd says a wrong digest in words only: "unexpected commit digest sha256:…, expected sha256:…".
fn mismatch(expected: &Digest, error: &Error) -> Option<ImageError> {
    let text = error.to_string();
    let rest = text.split_once("unexpected commit digest ")?.1;
    let actual = rest.split(',').next().unwrap_or(rest).trim().to_owned();
    Some(ImageError::DigestMismatch {
        object: "blob".to_owned(),
        origin: "an earlier, interrupted pull".to_owned(),
        expected: expected.to_string(),
        actual,
    })
}
