//! Objects in a bucket of S3, or of what speaks its protocol: for more than one node.
//!
//! ```text
//!   small:  write … finish ─► PUT PREFIX/4e…                                                                       write.rs
//!   large:  first part full ─► begin upload ─► PUT PREFIX/4e….upload (its id) ─► parts ─► complete ─► marker removed  multipart.rs
//!   read:   GET with a range, streamed
//!   delete: what was dropped has ended ─► marker? ─► abort its upload ─► DELETE object ─► DELETE marker
//! ```
//!
//! - The marker is what makes an upload removable by whoever finds its record: parts of an upload that nobody knows are paid for and not seen.
//! - No server is needed at start: until it answers, calls fail within a second, and afterwards they do not.
//! - Rights that the credentials need: `s3:GetObject`, `s3:PutObject`, `s3:DeleteObject`, `s3:AbortMultipartUpload`, and `s3:ListBucket`, without which
//!   S3 says of what is not there that it is forbidden.

mod config;
mod credentials_file;
mod failure;
mod multipart;
mod part_budget;
mod pending_abort;
mod write;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _};

pub use config::{Credentials, S3Error};
pub use credentials_file::CredentialsFileError;

use self::failure::{Failure, none_if_missing, unavailable, with_timeout};
use self::part_budget::PartBudget;
use self::pending_abort::PendingAborts;
use self::write::Writer;
use super::{ObjectId, ObjectWriter, Objects};
use crate::records::EngineError;

/// What errors call this engine.
const ENGINE: &str = "S3";
/// The longest that a request takes which moves nothing large, so that a client hears within a second that the server is away.
const BOUND: Duration = Duration::from_millis(950);
/// The longest pause in the middle of a stream.
const IDLE_BOUND: Duration = Duration::from_secs(10);
/// What a key has that is never written, to ask whether the server answers.
const PROBE_KEY: &str = "nobody";

/// Objects in a bucket.
pub struct S3 {
    bucket: Arc<Bucket>,
}

impl S3 {
    /// Objects in the bucket at `url`, which is `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]`, with the credentials in `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY` and, if there is one, `AWS_SESSION_TOKEN`, or those in the file that `AWS_SHARED_CREDENTIALS_FILE` names. Connects
    /// when it is used. TLS is checked against the authorities that browsers trust, and those in the file that `AWS_CA_BUNDLE` names.
    ///
    /// # Errors
    /// When the URL, a variable or a file is not as it should be.
    pub fn open(url: &str) -> Result<Self, S3Error> {
        Self::open_as(url, Credentials::from_environment()?)
    }

    /// As [`open`](Self::open), with these credentials.
    ///
    /// # Errors
    /// When the URL or the file of authorities is not as it should be.
    pub fn open_as(url: &str, credentials: Credentials) -> Result<Self, S3Error> {
        let (client, prefix) = config::connect(url, credentials)?;
        Ok(Self {
            bucket: Arc::new(Bucket {
                client,
                prefix,
                part_budget: PartBudget::default(),
                pending_aborts: PendingAborts::default(),
            }),
        })
    }
}

/// Where in which bucket, and a client of it.
struct Bucket {
    client: AmazonS3,
    prefix: Path,
    /// How many parts of large uploads may be in memory.
    part_budget: PartBudget,
    /// Uploads of this process that were dropped.
    pending_aborts: PendingAborts,
}

impl Bucket {
    fn object(&self, id: ObjectId) -> Path {
        self.prefix.clone().join(id.to_string())
    }

    /// Where the id of an object's upload is while it has one.
    fn upload_marker(&self, id: ObjectId) -> Path {
        self.prefix.clone().join(format!("{id}.upload"))
    }

    /// Ends an upload, also one that is not there.
    async fn abort(&self, id: ObjectId, upload: &String) -> Result<(), Failure> {
        let path = self.object(id);
        none_if_missing(with_timeout(BOUND, self.client.abort_multipart(&path, upload)).await)
            .map(drop)
    }

    /// Removes what is at a path, also if it is not there.
    async fn remove(&self, path: &Path) -> Result<(), Failure> {
        none_if_missing(with_timeout(BOUND, self.client.delete(path)).await).map(drop)
    }

    async fn delete(&self, id: ObjectId) -> Result<(), Failure> {
        let upload_marker = self.upload_marker(id);
        let read = async { self.client.get(&upload_marker).await?.bytes().await };
        let upload = none_if_missing(with_timeout(BOUND, read).await)?;
        if let Some(upload) = &upload {
            // First: a writer who is only slow can no longer complete it.
            let upload = String::from_utf8_lossy(upload).into_owned();
            self.abort(id, &upload).await?;
        }
        self.remove(&self.object(id)).await?;
        if upload.is_some() {
            // Last: until then the upload can be found again.
            self.remove(&upload_marker).await?;
        }
        Ok(())
    }

    async fn is_there(&self, id: ObjectId) -> Result<bool, Failure> {
        let head = with_timeout(BOUND, self.client.head(&self.object(id))).await;
        Ok(none_if_missing(head)?.is_some())
    }
}

#[async_trait]
impl Objects for S3 {
    async fn create(
        &self,
        id: ObjectId,
        group: &str,
    ) -> Result<Box<dyn ObjectWriter>, EngineError> {
        Ok(Box::new(Writer::new(Arc::clone(&self.bucket), id, group)))
    }

    async fn read(
        &self,
        id: ObjectId,
        range: Range<u64>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, EngineError>>>, EngineError> {
        if range.is_empty() {
            // HTTP has no such range.
            let is_there = self.bucket.is_there(id).await?;
            return Ok(is_there.then(|| stream::empty().boxed()));
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let path = self.bucket.object(id);
        let answer = with_timeout(BOUND, self.bucket.client.get_opts(&path, options)).await;
        let Some(answer) = none_if_missing(answer)? else {
            return Ok(None);
        };
        let chunks =
            stream::try_unfold(
                answer.into_stream(),
                async |mut bytes| match tokio::time::timeout(IDLE_BOUND, bytes.next()).await {
                    Ok(None) => Ok(None),
                    Ok(Some(Ok(chunk))) => Ok(Some((chunk, bytes))),
                    Ok(Some(Err(error))) => Err(Failure::from(error).into()),
                    Err(_) => Err(unavailable(format!("nothing came for {IDLE_BOUND:?}"))),
                },
            );
        Ok(Some(chunks.boxed()))
    }

    async fn delete(&self, id: ObjectId) -> Result<(), EngineError> {
        self.bucket.pending_aborts.wait_for(id).await?;
        Ok(self.bucket.delete(id).await?)
    }

    async fn check(&self) -> Result<(), EngineError> {
        let path = self.bucket.prefix.clone().join(PROBE_KEY);
        none_if_missing(with_timeout(BOUND, self.bucket.client.get(&path)).await)?;
        Ok(())
    }
}
