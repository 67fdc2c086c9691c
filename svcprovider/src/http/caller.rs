//! Who is calling: the container whose socket took the connection.

use std::sync::Arc;

use bismuth_handover::{Attachment, TokenDigest};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use subtle::ConstantTimeEq as _;

use super::problems::{self, Refusal};
use super::rate::Bucket;
use crate::records::{Limits, Place, Space};

/// How the socket is called, which is no name that anybody could point elsewhere.
const HOSTS: [&[u8]; 2] = [b"169.254.169.254:9000", b"169.254.169.254"];

/// A container, and what its requests must show.
#[derive(Clone, Debug)]
pub struct Caller {
    attachment: Arc<Attachment>,
    bucket: Arc<Bucket>,
}

impl Caller {
    /// The container of an attachment; `bucket` is its group's.
    pub fn new(attachment: Attachment, bucket: Arc<Bucket>) -> Self {
        Self {
            attachment: Arc::new(attachment),
            bucket,
        }
    }

    /// Where a key of this caller's group is.
    pub(super) fn place(&self, space: Space, key: String) -> Place {
        let group = self.group().to_owned();
        Place { group, space, key }
    }

    /// Whose data it works on.
    pub(super) fn group(&self) -> &str {
        self.attachment.group.as_str()
    }

    /// What its group may have of keys.
    pub(super) fn kv_limits(&self) -> Limits {
        Limits {
            bytes: self.attachment.quotas.kv_bytes,
            count: self.attachment.quotas.kv_keys,
        }
    }

    /// What its group may have of blobs.
    pub(super) fn blob_limits(&self) -> Limits {
        Limits {
            bytes: self.attachment.quotas.blob_bytes,
            count: self.attachment.quotas.blob_count,
        }
    }

    /// Whether the request is this caller's own, and not one too many.
    pub(super) fn check(&self, head: &Parts) -> Result<(), Refusal> {
        if let Some(name) = forwarded(&head.headers) {
            return Err(problems::forwarded(name));
        }
        let host = head.headers.get(HOST).map(|host| host.as_bytes());
        if !host.is_some_and(|host| HOSTS.contains(&host)) {
            return Err(problems::misdirected());
        }
        if !self.knows_token(&head.headers) {
            return Err(problems::unauthorized());
        }
        match self.attachment.quotas.requests_per_second {
            None => Ok(()),
            Some(rate) => self
                .bucket
                .take(rate)
                .map_err(|wait| problems::too_many(rate, wait)),
        }
    }

    fn knows_token(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(credentials), None) = (given.next(), given.next()) else {
            return false;
        };
        let Some((scheme, token)) = credentials.as_bytes().split_at_checked(b"Bearer ".len())
        else {
            return false;
        };
        // What is compared are digests, so that even the time of hashing tells only the length.
        let digest = TokenDigest::of(token.trim_ascii());
        let same: bool = digest.0.ct_eq(&self.attachment.token.0).into();
        same && scheme.eq_ignore_ascii_case(b"Bearer ")
    }
}

/// A field that says that the request came by way of somebody.
fn forwarded(headers: &HeaderMap) -> Option<&str> {
    let mut names = headers.keys().map(http::HeaderName::as_str);
    names.find(|name| {
        name.starts_with("x-forwarded-") || matches!(*name, "forwarded" | "via" | "x-real-ip")
    })
}
