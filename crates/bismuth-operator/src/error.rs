//! Errors of a call: what went wrong, and what the operator can do about it.

use std::path::PathBuf;
use std::time::Duration;

use http::{StatusCode, Uri};
use serde::Deserialize;

use crate::token::TokenError;

/// Why a call was not done.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CallError {
    #[error(
        "--svcprovider {url} is not an http URL of a host, such as {}",
        crate::DEFAULT_URL
    )]
    Url { url: Uri },
    /// The token cannot be had. Nothing was sent.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The key is too long to be asked for. Nothing was sent.
    #[error("{target:.64}… is no valid request path")]
    Target { target: String, source: http::Error },
    /// Nobody answers there. Nothing was sent.
    #[error(
        "connect to svcprovider at {address} (is it running? --svcprovider names another place)"
    )]
    Connect {
        address: String,
        source: std::io::Error,
    },
    /// Nobody answers there, not even with a refusal. Nothing was sent.
    #[error("connect to svcprovider at {address}: no answer within {} ms (--svcprovider names another place)", bound.as_millis())]
    ConnectTimeout { address: String, bound: Duration },
    /// It went wrong on the way: what was asked is done or is not.
    #[error("exchange with svcprovider at {address}")]
    Exchange {
        address: String,
        source: hyper::Error,
    },
    /// It took the request and let nothing go on: what was asked is done or is not.
    #[error(
        "svcprovider at {address} was silent for {} ms; whether it did what was asked is unknown", bound.as_millis()
    )]
    Stalled { address: String, bound: Duration },
    #[error(
        "svcprovider at {address} does not accept the token in {}: take the token file of that svcprovider (--svcprovider-token-file)",
        token_file.display()
    )]
    Unauthorized {
        address: String,
        token_file: PathBuf,
    },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("svcprovider at {address} sent a response that cannot be used: {reason}")]
    Answer { address: String, reason: String },
}

/// A refusal in svcprovider's words.
#[derive(Clone, Debug, Deserialize, thiserror::Error)]
#[error("{component}: {detail}")]
pub struct Refusal {
    /// The HTTP status.
    #[serde(skip)]
    pub status: StatusCode,
    /// A stable word for programs.
    pub code: String,
    /// Who refused.
    pub component: String,
    /// One sentence for people.
    pub detail: String,
    /// Seconds after which the same call may succeed.
    #[serde(skip)]
    pub retry_after: Option<u32>,
}

impl CallError {
    /// Whether the call may have been done all the same.
    #[must_use]
    pub fn is_unknown_outcome(&self) -> bool {
        matches!(
            self,
            Self::Exchange { .. } | Self::Stalled { .. } | Self::Answer { .. }
        )
    }

    /// Whether svcprovider said that something is not there; who else says so is the wrong server.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(refusal)
            if refusal.status == StatusCode::NOT_FOUND && refusal.component == "svcprovider")
    }

    /// The status that svcprovider refused with.
    #[must_use]
    pub fn refused_with(&self) -> Option<StatusCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            _ => None,
        }
    }
}
