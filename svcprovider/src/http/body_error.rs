//! Errors while a request body is read, and its timeouts.

use std::time::Duration;

use thiserror::Error;

/// A function that sends nothing for so long does not send.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A megabyte in a minute is slower than any network inside a machine: who takes longer keeps room from others.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a body did not come whole.
#[derive(Debug, Error)]
pub(crate) enum RequestBodyError {
    /// The connection ended, or its framing did.
    #[error("the body was cut off")]
    CutOff(#[source] hyper::Error),
    #[error("the body was silent for {} s", IDLE_TIMEOUT.as_secs())]
    Silent,
    #[error("the body did not come within {} s", BODY_TIMEOUT.as_secs())]
    Slow,
}
