//! The client of the handover protocol: bismuthd's side.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use bismuth_model::{ContainerId, ServiceGroup};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::message::{
    Answer, Attachment, HeldSocket, NodeName, Numbered, Request, SecretValue, VERSION,
};
use crate::packets::{Packets, TransportError};

/// Why there is no connection to svcprovider.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ConnectError {
    /// Nobody answers there.
    #[error("connect to {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    /// Somebody answers, and it is not a svcprovider.
    #[error("handshake with svcprovider at {}", path.display())]
    Handshake { path: PathBuf, source: CallError },
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CallError {
    /// The connection is of no use any more.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// svcprovider would not do it; the connection is fine.
    #[error("svcprovider refuses: {reason}")]
    Refused { reason: String },
}

impl CallError {
    /// Whether the connection can still be used.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// A connection to svcprovider. One call at a time; none has a deadline of its own. A call that was given up leaves the
/// connection usable: its answer is skipped.
#[derive(Debug)]
pub struct Client {
    packets: Packets,
    number: u32,
}

impl Client {
    /// Connects and greets. Call it in a tokio runtime.
    ///
    /// # Errors
    /// As [`ConnectError`] says.
    pub async fn connect(path: &Path, node: &NodeName) -> Result<Self, ConnectError> {
        let socket = open(path).map_err(|source| ConnectError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Self::from_socket(socket, node)
            .await
            .map_err(|source| ConnectError::Handshake {
                path: path.to_owned(),
                source,
            })
    }

    /// Greets over a connected socket of packets.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn from_socket(socket: OwnedFd, node: &NodeName) -> Result<Self, CallError> {
        let packets = Packets::new(socket)?;
        let mut client = Self { packets, number: 0 };
        let hello = Request::Hello {
            newest: VERSION,
            node: node.clone(),
        };
        match client.call(hello, None).await? {
            (Answer::Welcome { .. }, None) => Ok(client),
            (answer, _) => Err(unexpected(&answer)),
        }
    }

    /// Everything that svcprovider holds for this node.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn held_sockets(&mut self) -> Result<Vec<HeldSocket>, CallError> {
        let number = self.ask(Request::List, None).await?;
        let mut all = Vec::new();
        loop {
            match self.answer(number).await? {
                (Answer::HeldSockets { held, more }, None) => {
                    all.extend(held);
                    if !more {
                        return Ok(all);
                    }
                }
                (answer, _) => return Err(unexpected(&answer)),
            }
        }
    }

    /// Hands a listening socket over. What was held for the container is replaced.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn attach(
        &mut self,
        attachment: Attachment,
        listener: BorrowedFd<'_>,
    ) -> Result<(), CallError> {
        let answer = self
            .call(Request::Attach(attachment), Some(listener))
            .await?;
        done(answer)
    }

    /// Has svcprovider let go of a container's socket; nothing is held afterwards.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn detach(&mut self, container: ContainerId) -> Result<(), CallError> {
        done(self.call(Request::Detach(container), None).await?)
    }

    /// A descriptor of a socket that svcprovider holds and goes on to hold; `None` if it holds none.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn duplicate(
        &mut self,
        container: ContainerId,
    ) -> Result<Option<OwnedFd>, CallError> {
        match self.call(Request::Duplicate(container), None).await? {
            (Answer::Listener, Some(listener)) => Ok(Some(listener)),
            (Answer::Absent, None) => Ok(None),
            (answer, _) => Err(unexpected(&answer)),
        }
    }

    /// The current value of a secret; `None` if there is none.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn secret(
        &mut self,
        group: &ServiceGroup,
        name: &str,
    ) -> Result<Option<SecretValue>, CallError> {
        let ask = Request::Secret {
            group: group.clone(),
            name: name.to_owned(),
        };
        match self.call(ask, None).await? {
            (Answer::Secret(value), None) => Ok(Some(value)),
            (Answer::Absent, None) => Ok(None),
            (answer, _) => Err(unexpected(&answer)),
        }
    }

    /// Returns when the other side has ended the connection, or speaks without being asked, which is as bad. Cancel safe.
    pub async fn closed(&self) {
        self.packets.readable().await;
    }

    async fn call(
        &mut self,
        request: Request,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(Answer, Option<OwnedFd>), CallError> {
        let number = self.ask(request, descriptor).await?;
        self.answer(number).await
    }

    async fn ask(
        &mut self,
        message: Request,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<u32, CallError> {
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let packet = Numbered { number, message }.encode();
        self.packets.send(&packet, descriptor).await?;
        Ok(number)
    }

    async fn answer(&mut self, asked: u32) -> Result<(Answer, Option<OwnedFd>), CallError> {
        loop {
            let (answer, descriptor) = self.packets.receive(Numbered::<Answer>::decode).await?;
            // To a call that was given up.
            if answer.number != asked {
                continue;
            }
            return match answer.message {
                Answer::Refused { reason } => Err(CallError::Refused { reason }),
                message => Ok((message, descriptor)),
            };
        }
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // It connects at once, or fails: with EAGAIN when the backlog is full.
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn done(answer: (Answer, Option<OwnedFd>)) -> Result<(), CallError> {
    match answer {
        (Answer::Done, None) => Ok(()),
        (answer, _) => Err(unexpected(&answer)),
    }
}

fn unexpected(answer: &Answer) -> CallError {
    let what = match answer {
        Answer::Welcome { .. } => "Welcome",
        Answer::HeldSockets { .. } => "HeldSockets",
        Answer::Done => "Done",
        Answer::Listener => "Listener",
        Answer::Absent => "Absent",
        Answer::Secret(_) => "Secret",
        Answer::Refused { .. } => "Refused",
    };
    CallError::Transport(TransportError::Unexpected { what })
}
