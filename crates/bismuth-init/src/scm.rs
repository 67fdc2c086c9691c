//! Sends and receives bytes with descriptors over a Unix socket: `SCM_RIGHTS`, see unix(7) and cmsg(3).

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use crate::protocol::DESCRIPTORS;

const PAYLOAD_BYTES: usize = DESCRIPTORS * mem::size_of::<RawFd>();
/// What `CMSG_SPACE(PAYLOAD_BYTES)` is on 64-bit Linux: header and payload, padded.
const CONTROL_BYTES: usize = mem::size_of::<libc::cmsghdr>() + PAYLOAD_BYTES.next_multiple_of(8);

/// Aligned as the control messages in it must be.
#[repr(C)]
struct Control {
    _align: [libc::cmsghdr; 0],
    bytes: [u8; CONTROL_BYTES],
}

impl Control {
    const fn new() -> Self {
        Self {
            _align: [],
            bytes: [0; CONTROL_BYTES],
        }
    }
}

/// Sends a prefix of `bytes`; `fds` travel with its first byte. Blocks if the socket does.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: Option<&[RawFd; DESCRIPTORS]>,
) -> io::Result<usize> {
    let mut vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control::new();
    // SAFETY: msghdr is made of integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if let Some(fds) = fds {
        message.msg_control = control.bytes.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_BYTES as _;
        // SAFETY: the control buffer is aligned and has room for one header and `DESCRIPTORS`
        // descriptors, so CMSG_FIRSTHDR gives its start and CMSG_DATA is within it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(PAYLOAD_BYTES as u32) as _;
            ptr::copy_nonoverlapping(
                fds.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(header),
                PAYLOAD_BYTES,
            );
        }
    }
    // SAFETY: everything `message` points to lives through the call, which only reads it.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What one receive brought.
pub(crate) struct Received {
    /// How many bytes; 0 at the end of the stream.
    pub(crate) bytes: usize,
    /// Descriptors were lost: too many came, or we have no room for them.
    pub(crate) truncated: bool,
}

/// Receives into `buffer`, and up to three descriptors into `fds`, closed on exec.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<Received> {
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = Control::new();
    // SAFETY: msghdr is made of integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    let (socket, flags) = (socket.as_raw_fd(), libc::MSG_CMSG_CLOEXEC);
    // SAFETY: everything `message` points to lives through the call and has the room it says.
    let received = unsafe { libc::recvmsg(socket, &raw mut message, flags) };
    let bytes = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has just filled `message` in, and `control` still lives.
    unsafe { take_descriptors(&message, fds) };
    Ok(Received {
        bytes,
        truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// # Safety
/// `message` must be as recvmsg left it, and its control buffer must live.
unsafe fn take_descriptors(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: as the caller promises; the CMSG functions stay within the control buffer, and the
    // kernel has written whole descriptors that are now ours alone.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let rights =
                (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS;
            if rights {
                let payload = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..payload / mem::size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}
