//! bismuthd's side of the protocol: sends a request, reads replies, prepares and seals the socket's directory.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{io::Read as _, os::{fd::AsFd as _, unix::net::UnixStream}};
//! use bismuth_init::{ExecRequest, Reply, ReplyDecoder, send_request};
//!
//! let request = ExecRequest::new(["ls", "-l"], ["PATH=/bin"], "/", (1000, 1000))?;
//! let null = std::fs::File::open("/dev/null")?;
//! let mut stream = UnixStream::connect("/run/bismuth/some-container/init.sock")?;
//! send_request(&stream, &request, [null.as_fd(); 3])?;
//!
//! let (mut decoder, mut buffer) = (ReplyDecoder::new(), [0; 1024]);
//! loop {
//!     while let Some(reply) = decoder.next_reply()? {
//!         match reply {
//!             Reply::Exited(exit) => { println!("{exit}"); return Ok(()) }
//!             Reply::SpawnFailed { what, .. } => return Err(what.into()),
//!             Reply::Hello { .. } | Reply::Spawned { .. } | Reply::Injected => {}
//!         }
//!     }
//!     match stream.read(&mut buffer)? {
//!         0 => return Err("the container's init is gone".into()),
//!         n => decoder.push(&buffer[..n]),
//!     }
//! }
//! # }
//! ```
//!
//! Under a runtime, drive an [`OutgoingRequest`] whenever the socket can be written; with tokio:
//! `stream.async_io(Interest::WRITABLE, || outgoing.advance(stream.as_fd())).await`.
//!
//! When sending fails (`EPIPE`, `ECONNRESET`), read all the same: init may have said why.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd},
        unix::fs::{PermissionsExt as _, chown},
    },
    path::Path,
};

use crate::{
    protocol::{DESCRIPTORS, ExecRequest, RequestError},
    scm,
};

/// A request on its way. The descriptors are borrowed until it is complete; then the caller
/// closes its own, and the program alone holds them.
#[derive(Debug)]
pub struct OutgoingRequest<'fd> {
    bytes: Vec<u8>,
    sent: usize,
    fds: [BorrowedFd<'fd>; DESCRIPTORS],
}

impl<'fd> OutgoingRequest<'fd> {
    /// Encodes a request whose program gets `fds` as standard input, output and error.
    ///
    /// # Errors
    /// When there is no program or the request is too long.
    pub fn new(
        request: &ExecRequest,
        fds: [BorrowedFd<'fd>; DESCRIPTORS],
    ) -> Result<Self, RequestError> {
        Ok(Self {
            bytes: request.encode()?,
            sent: 0,
            fds,
        })
    }

    /// Sends as much as the socket takes; `Ok` once it is complete.
    ///
    /// # Errors
    /// `WouldBlock` when a non-blocking socket takes no more for now: call again when it can be
    /// written. Any other error is final.
    pub fn advance(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            // The descriptors are with the first byte, and with it only.
            let raw: [RawFd; DESCRIPTORS] = self.fds.map(|fd| fd.as_raw_fd());
            let fds = (self.sent == 0).then_some(&raw);
            match scm::send(socket, &self.bytes[self.sent..], fds) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Sends a request over a blocking socket.
///
/// # Errors
/// When the request cannot be encoded, or the socket not be written.
pub fn send_request(
    socket: impl AsFd,
    request: &ExecRequest,
    fds: [BorrowedFd<'_>; DESCRIPTORS],
) -> Result<(), RequestError> {
    OutgoingRequest::new(request, fds)?
        .advance(socket.as_fd())
        .map_err(RequestError::Send)
}

/// Prepares the directory in which init will make its socket: empty, and init's own.
///
/// `uid` and `gid` are those of the function **on the host**.
///
/// # Errors
/// When the directory cannot be made or given away; names the step in the error's context.
pub fn prepare(directory: &Path, uid: u32, gid: u32) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    chown(directory, Some(uid), Some(gid))
}

/// Takes the directory of the socket away from the function's user: from now on nobody in the
/// container can remove, rename or replace the socket.
///
/// Call it after the first connection and before the first request, so that the function never
/// runs with the directory open.
///
/// # Errors
/// When the directory cannot be changed.
pub fn seal(directory: &Path) -> io::Result<()> {
    chown(directory, Some(0), Some(0))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}
