//! Giving a started container its secrets, by way of bismuth-init.
//!
//! ```text
//!   exec:    init listens ─► files and variables ─► Delivered
//!   server:  init listens ─► files and program ───► it closes the connection and is the program
//! ```
//!
//! It blocks its thread, like the waiting before and after it.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bismuth_init::protocol::{ProtocolError, RequestError};
use bismuth_init::{Delivery, FailureKind, Reply, ReplyDecoder, host};
use thiserror::Error;

/// bismuth-init answers at once, unless the disk is slow from which it executes the program.
const BOUND: Duration = Duration::from_secs(5);

/// Why secrets did not arrive.
#[derive(Debug, Error)]
pub enum DeliveryError {
    /// bismuth-init could not be reached, or does not answer.
    #[error("give bismuth-init the secrets")]
    Io(#[from] io::Error),
    /// They cannot be sent.
    #[error("send the secrets")]
    Send(#[from] RequestError),
    /// What it answers is none of its answers.
    #[error("understand bismuth-init")]
    Protocol(#[from] ProtocolError),
    /// It could not do it.
    #[error("{what}")]
    Refused {
        /// Of which kind.
        kind: FailureKind,
        /// In its words.
        what: String,
    },
}

impl DeliveryError {
    /// Whether the program itself cannot be run.
    pub(super) fn is_about_the_program(&self) -> bool {
        let program = |kind: &FailureKind| {
            matches!(
                kind,
                FailureKind::ProgramNotFound
                    | FailureKind::NotExecutable
                    | FailureKind::BadInterpreter
                    | FailureKind::WorkingDirectory
            )
        };
        matches!(self, Self::Refused { kind, .. } if program(kind))
    }
}

/// Blocks until bismuth-init has taken the delivery, and become the program if there is one in it.
pub(super) fn deliver(run_dir: &Path, delivery: &Delivery) -> Result<(), DeliveryError> {
    let mut stream = UnixStream::connect(super::agent_socket(run_dir))?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.set_write_timeout(Some(BOUND))?;
    // When sending fails, init may have said why.
    let sent = host::send_delivery(&stream, delivery);
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    let mut decoder = ReplyDecoder::new();
    decoder.push(&said);
    while let Some(reply) = decoder.next_reply()? {
        if let Reply::SpawnFailed { kind, what, .. } = reply {
            return Err(DeliveryError::Refused { kind, what });
        }
    }
    Ok(sent?)
}
