//! The server of the handover protocol: svcprovider's side.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

use crate::message::{Answer, HELD_PER_PACKET, HeldSocket, NodeName, Numbered, Request, VERSION};
use crate::packets::{self, Packets, TransportError};

/// One bismuthd per node connects, and a few more while they restart.
const BACKLOG: i32 = 16;

/// Why the handover socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BindError {
    #[error("another svcprovider serves {}: its lock {} is held", path.display(), lock.display())]
    InUse { path: PathBuf, lock: PathBuf },
    #[error("{} is there and is not a socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("{act} {}", path.display())]
    File {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Where bismuthd connects. Dropping it leaves the socket's file, which the next listener replaces.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// Held as long as we serve the path: the kernel lets go of it however we end.
    _lock: File,
}

impl Listener {
    /// Serves `path`, replacing the socket that an earlier process left. Makes the directory it is in. Call it in a tokio
    /// runtime.
    ///
    /// # Errors
    /// As [`BindError`] says.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed("make directory", dir))?;
        }
        let lock = lock(path)?;
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let bind = || -> io::Result<UnixListener> {
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
            // Nobody can connect before it listens, and then only its owner may.
            rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
            rustix::net::listen(&socket, BACKLOG)?;
            UnixListener::from_std(socket.into())
        };
        let socket = bind().map_err(failed("listen on", path))?;
        Ok(Self {
            socket,
            _lock: lock,
        })
    }

    /// The next connection, before its greeting. Cancel safe.
    ///
    /// # Errors
    /// When a descriptor cannot be had, or the peer is of another user. The listener lives on.
    pub async fn accept(&self) -> Result<Connection, TransportError> {
        let accepted = self.socket.accept().await;
        let (socket, _) = accepted.map_err(packets::failed("accept on"))?;
        let socket = socket.into_std().map_err(packets::failed("prepare"))?;
        Connection::new(socket.into())
    }
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |source| BindError::File { act, path, source }
}

/// Two processes that find a stale socket would remove each other's: one lock decides who may.
fn lock(path: &Path) -> Result<File, BindError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let mode = Mode::RUSR | Mode::WUSR;
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(false);
    options.mode(mode.as_raw_mode());
    let lock = options
        .open(&lock_path)
        .map_err(failed("open", &lock_path))?;
    // A lock that others may open is one that they may hold, and an earlier version may have made it.
    rustix::fs::fchmod(&lock, mode).map_err(|e| failed("protect", &lock_path)(e.into()))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BindError::InUse {
            path: path.to_owned(),
            lock: lock_path,
        }),
        Err(e) => Err(failed("lock", &lock_path)(e.into())),
    }
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            std::fs::remove_file(path).map_err(failed("remove", path))
        }
        Ok(_) => Err(BindError::NotASocket {
            path: path.to_owned(),
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("look at", path)(e)),
    }
}

/// A connection of one bismuthd.
#[derive(Debug)]
pub struct Connection {
    packets: Packets,
}

/// One request, with the socket that came with it if it is an `Attach`, and only then.
#[derive(Debug)]
pub struct Received {
    /// To be given back with the answer.
    pub number: u32,
    /// What is asked.
    pub request: Request,
    /// The listening socket of an `Attach`.
    pub listener: Option<OwnedFd>,
}

impl Connection {
    /// Takes a connected socket of packets.
    ///
    /// # Errors
    /// When the peer is of another user.
    pub fn new(socket: OwnedFd) -> Result<Self, TransportError> {
        let packets = Packets::new(socket)?;
        Ok(Self { packets })
    }

    /// Waits for the greeting and answers it; says which node it is.
    ///
    /// # Errors
    /// As [`TransportError`] says; the connection is of no use then.
    pub async fn handshake(&mut self) -> Result<NodeName, TransportError> {
        let received = self.next().await?;
        let Request::Hello { node, .. } = received.request else {
            let what = "a request before its Hello";
            return Err(TransportError::Unexpected { what });
        };
        let welcome = Answer::Welcome { newest: VERSION };
        self.answer(received.number, welcome, None).await?;
        Ok(node)
    }

    /// The next request. Cancel safe.
    ///
    /// # Errors
    /// As [`TransportError`] says, [`TransportError::Closed`] at the end; the connection is of no use then.
    pub async fn next(&mut self) -> Result<Received, TransportError> {
        let (request, listener) = self.packets.receive(Numbered::<Request>::decode).await?;
        let attaches = matches!(request.message, Request::Attach(_));
        let what = match (attaches, &listener) {
            (true, None) => "an Attach without a socket",
            (false, Some(_)) => "a descriptor that nobody asked for",
            _ => {
                let Numbered {
                    number,
                    message: request,
                } = request;
                return Ok(Received {
                    number,
                    request,
                    listener,
                });
            }
        };
        Err(TransportError::Unexpected { what })
    }

    /// Answers a request; a descriptor goes with [`Answer::Listener`].
    ///
    /// # Errors
    /// As [`TransportError`] says; the connection is of no use then.
    pub async fn answer(
        &mut self,
        number: u32,
        answer: Answer,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), TransportError> {
        let message = answer;
        let packet = Numbered { number, message }.encode();
        self.packets.send(&packet, descriptor).await
    }

    /// Answers a `List`.
    ///
    /// # Errors
    /// As [`TransportError`] says; the connection is of no use then.
    pub async fn send_held_sockets(
        &mut self,
        number: u32,
        held: &[HeldSocket],
    ) -> Result<(), TransportError> {
        let mut parts = held.chunks(HELD_PER_PACKET).peekable();
        loop {
            let part = parts.next().unwrap_or_default().to_vec();
            let more = parts.peek().is_some();
            self.answer(number, Answer::HeldSockets { held: part, more }, None)
                .await?;
            if !more {
                return Ok(());
            }
        }
    }
}
