//! Identifies and authorizes the caller: the container whose socket took the connection.

use std::sync::Arc;

use bismuth_handover::{Attachment, TokenDigest};
use bismuth_model::{ServiceGroup, ServiceQuotas};
use bismuth_store::Key;
use bismuth_store::records::{Keyspace, Limits, RecordKey};
use http::HeaderMap;
use http::header::HOST;
use http::request::Parts;

use super::memory::RequestBudget;
use super::problems::{self, Refusal};
use super::rate::Bucket;
use super::{AppState, bearer};

/// How the socket is called, which is no name that anybody could point elsewhere.
const HOSTS: [&[u8]; 2] = [b"169.254.169.254:9000", b"169.254.169.254"];

/// Whose data is worked on, and how much of it there may be.
#[derive(Clone, Debug)]
pub struct Caller {
    group: ServiceGroup,
    quotas: ServiceQuotas,
    /// Of a container. An operator has shown what it must elsewhere, and has no quotas.
    auth: Option<ContainerAuth>,
}

/// What a container's requests must show.
#[derive(Clone, Debug)]
struct ContainerAuth {
    token: TokenDigest,
    bucket: Arc<Bucket>,
}

impl Caller {
    /// The container of an attachment; `bucket` is its group's.
    pub fn new(attachment: Attachment, bucket: Arc<Bucket>) -> Self {
        Self {
            group: attachment.group,
            quotas: attachment.quotas,
            auth: Some(ContainerAuth {
                token: attachment.token,
                bucket,
            }),
        }
    }

    /// An operator who works on a group's data.
    pub(crate) fn operator(group: ServiceGroup) -> Self {
        Self {
            group,
            quotas: ServiceQuotas::default(),
            auth: None,
        }
    }

    /// Where a key of this caller's group is.
    pub(super) fn record_key(&self, key: Key) -> RecordKey {
        RecordKey::new(self.group(), Keyspace::Kv, key.into_string())
    }

    /// What the bytes of its request and of the answer are taken out of.
    pub(super) fn budget<'a>(&'a self, app: &'a AppState) -> RequestBudget<'a> {
        RequestBudget {
            group: self.auth.as_ref().map(|auth| auth.bucket.memory()),
            process: &app.memory,
        }
    }

    /// Whose data it works on.
    pub(super) fn group(&self) -> &str {
        self.group.as_str()
    }

    /// What its group may have of keys.
    pub(super) fn kv_limits(&self) -> Limits {
        Limits {
            bytes: self.quotas.kv_bytes,
            count: self.quotas.kv_keys,
        }
    }

    /// What its group may have of blobs.
    pub(super) fn blob_limits(&self) -> Limits {
        Limits {
            bytes: self.quotas.blob_bytes,
            count: self.quotas.blob_count,
        }
    }

    /// Whether the request is this caller's own.
    pub(super) fn check(&self, head: &Parts) -> Result<(), Refusal> {
        let Some(auth) = &self.auth else {
            return Ok(());
        };
        if let Some(name) = forwarded(&head.headers) {
            return Err(problems::forwarded(name));
        }
        let host = head.headers.get(HOST).map(|host| host.as_bytes());
        if !host.is_some_and(|host| HOSTS.contains(&host)) {
            return Err(problems::misdirected());
        }
        if !bearer::is_shown(&head.headers, &auth.token) {
            return Err(problems::unauthorized());
        }
        Ok(())
    }

    /// Whether the request is not one too many.
    pub(super) async fn admit(&self, app: &AppState) -> Result<(), Refusal> {
        let (Some(auth), Some(rate)) = (&self.auth, self.quotas.requests_per_second) else {
            return Ok(());
        };
        if !app.has_other_nodes {
            let taken = auth.bucket.take(rate);
            return taken.map_err(|wait| problems::too_many(rate, wait));
        }
        let shared = auth.bucket.shared();
        shared.take(&*app.records, self.group(), rate).await
    }
}

/// A field that says that the request came by way of somebody.
fn forwarded(headers: &HeaderMap) -> Option<&str> {
    let mut names = headers.keys().map(http::HeaderName::as_str);
    names.find(|name| {
        name.starts_with("x-forwarded-") || matches!(*name, "forwarded" | "via" | "x-real-ip")
    })
}
