//! Why a body did not come whole, and how long it is waited for.

use std::time::Duration;

use thiserror::Error;

/// A function that sends nothing for so long does not send.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// A megabyte in a minute is slower than any network inside a machine: who takes longer keeps room from others.
pub(super) const WHOLE: Duration = Duration::from_secs(60);

/// Why a body did not come whole.
#[derive(Debug, Error)]
pub(crate) enum BodyBroken {
    /// The connection ended, or its framing did.
    #[error("the body was cut off")]
    CutOff(#[source] hyper::Error),
    /// Nothing came.
    #[error("the body was silent for {} s", SILENCE.as_secs())]
    Silent,
    /// It came in drops.
    #[error("the body did not come within {} s", WHOLE.as_secs())]
    Slow,
}
