//! Sends and receives packets with file descriptors over a Unix socket, under tokio: unix(7), cmsg(3).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, sockopt,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::{Zeroize as _, Zeroizing};

use crate::message::{DecodeError, MAX_PACKET_BYTES};

/// Room for one descriptor; alignment lets the kernel put two there, which is noticed.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(1));

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TransportError {
    #[error("the connection was closed")]
    Closed,
    #[error("{act} the handover socket")]
    Socket {
        act: &'static str,
        source: io::Error,
    },
    #[error("the other side of the handover socket is user {uid}, not {own}")]
    WrongUser { uid: u32, own: u32 },
    /// A packet that is too long, or with more descriptors than one or than we have room for.
    #[error("a packet of {bytes} bytes or more is too long, or its descriptors were lost")]
    Truncated { bytes: usize },
    #[error("decode a packet of the handover socket")]
    Decode(#[from] DecodeError),
    /// A message that does not come now, or not with that many descriptors.
    #[error("the other side sent {what} unexpectedly")]
    Unexpected { what: &'static str },
}

/// A connected socket of packets. tokio has no type for one; its stream waits for it as for any other, and is read and written
/// by our own calls only.
#[derive(Debug)]
pub(crate) struct Packets {
    socket: UnixStream,
    /// Secrets pass through it, so it is overwritten at its end.
    buffer: Zeroizing<Vec<u8>>,
}

/// Names what failed.
pub(crate) fn failed(act: &'static str) -> impl FnOnce(io::Error) -> TransportError {
    move |source| TransportError::Socket { act, source }
}

impl Packets {
    /// Takes a connected socket, if a process of our own user is at its other end. Call it in a tokio runtime.
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, TransportError> {
        let peer =
            sockopt::socket_peercred(&socket).map_err(|e| failed("ask who is at")(e.into()))?;
        let (uid, own) = (peer.uid.as_raw(), rustix::process::geteuid().as_raw());
        if uid != own {
            return Err(TransportError::WrongUser { uid, own });
        }
        rustix::io::ioctl_fionbio(&socket, true).map_err(|e| failed("prepare")(e.into()))?;
        let socket = UnixStream::from_std(socket.into()).map_err(failed("watch"))?;
        Ok(Self {
            socket,
            buffer: Zeroizing::new(vec![0; MAX_PACKET_BYTES + 1]),
        })
    }

    /// Sends one packet, waiting while the other side does not read. Cancel safe: it is sent whole or not at all.
    pub(crate) async fn send(
        &self,
        packet: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), TransportError> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = descriptor.as_slice();
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            rustix::net::sendmsg(&self.socket, &[IoSlice::new(packet)], &mut control, flags)
                .map_err(io::Error::from)
        };
        match self.socket.async_io(Interest::WRITABLE, send).await {
            Ok(_whole) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(TransportError::Closed),
            Err(e) => Err(failed("write to")(e)),
        }
    }

    /// The next packet, read by `decode`, and the descriptor that came with it. Cancel safe.
    pub(crate) async fn receive<T>(
        &mut self,
        decode: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<(T, Option<OwnedFd>), TransportError> {
        let Self { socket, buffer } = self;
        let receive = || receive_one(socket, buffer);
        let (bytes, descriptor) = match socket.async_io(Interest::READABLE, receive).await {
            Ok(received) => received?,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                return Err(TransportError::Closed);
            }
            Err(e) => return Err(failed("read from")(e)),
        };
        let received = &mut self.buffer[..bytes];
        let decoded = decode(received);
        received.zeroize();
        Ok((decoded?, descriptor))
    }

    /// Returns when there is something to read, which may be the end. Cancel safe: it is left there.
    pub(crate) async fn readable(&self) {
        // tokio's own word is not enough: it stays "readable" after the last packet was taken.
        let look = || {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            rustix::net::recv(&self.socket, &mut [0_u8], flags).map_err(io::Error::from)
        };
        let _something_or_the_end = self.socket.async_io(Interest::READABLE, look).await;
    }
}

type Packet = Result<(usize, Option<OwnedFd>), TransportError>;

fn receive_one(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut slices = [IoSliceMut::new(buffer)];
    let message = rustix::net::recvmsg(socket, &mut slices, &mut control, flags)?;
    let mut descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    let lost = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    if message.flags.intersects(lost) || message.bytes > MAX_PACKET_BYTES || descriptors.len() > 1 {
        let bytes = message.bytes;
        return Ok(Err(TransportError::Truncated { bytes }));
    }
    // No message is empty, so this is the end of the connection.
    if message.bytes == 0 {
        return Ok(Err(TransportError::Closed));
    }
    Ok(Ok((message.bytes, descriptors.pop())))
}
