//! Runs a closure or opens a socket in a network namespace, from any thread.
//!
//! ```text
//!   calling thread:  own ns ──setns──► container's ns ── socket(2) ──setns──► own ns
//!                                                          │
//!                                       the socket stays there for ever
//! ```
//!
//! A socket belongs to the namespace in which it was made, not to the one of the thread that uses
//! it: it can be connected, registered with an event loop and handed to another process from
//! outside. So a thread enters the namespace for one `socket(2)` (some microseconds, see
//! `examples/timings.rs`) and is back before anything else can run on it. Nothing may be awaited
//! in between, which is why these functions are not `async`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What went wrong inside a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace to return to could not be opened; nothing was entered.
    #[error("open the calling thread's own network namespace")]
    OpenOwn(#[source] io::Error),
    /// setns(2) into the namespace failed.
    #[error("enter network namespace")]
    Enter(#[source] io::Error),
    /// socket(2) inside the namespace failed.
    #[error("make a socket in network namespace")]
    Socket(#[source] io::Error),
    /// A listening socket could not be bound.
    #[error("listen on {address} in network namespace")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::OpenOwn(source) | Error::Enter(source) | Error::Socket(source) => source.kind(),
            Error::Listen { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// Runs `body` on the calling thread inside the namespace, and comes back.
///
/// `body` must not start threads (they would stay in the namespace) and should be short.
///
/// # Errors
/// [`Error::OpenOwn`], [`Error::Enter`]; `body` was not run then.
///
/// # Aborts
/// If the thread cannot go back. It would go on to run other work (a connection to ZooKeeper,
/// another container's request) inside this container's network, silently crossing tenants; and
/// a thread cannot be ended from within safely while others wait for it. The containers do not
/// need this process and the next one adopts them, so ending is the only safe thing.
pub fn run_in<T>(net: BorrowedFd<'_>, body: impl FnOnce() -> T) -> Result<T, Error> {
    // `thread-self`, as other threads may be in other namespaces.
    let own = std::fs::File::open("/proc/thread-self/ns/net").map_err(Error::OpenOwn)?;
    move_into_link_name_space(net, Some(LinkNameSpaceType::Network))
        .map_err(|error| Error::Enter(error.into()))?;
    let _return = ReturnGuard(own.as_fd());
    Ok(body())
}

/// Returns to the own namespace when dropped, also when `body` panics.
struct ReturnGuard<'a>(BorrowedFd<'a>);

impl Drop for ReturnGuard<'_> {
    fn drop(&mut self) {
        if let Err(error) = move_into_link_name_space(self.0, Some(LinkNameSpaceType::Network)) {
            tracing::error!(%error, "thread cannot leave a container's network namespace");
            eprintln!("abort: thread cannot leave a container's network namespace: {error}");
            std::process::abort();
        }
    }
}

/// Makes a TCP socket (IPv4, non-blocking, close-on-exec) inside the namespace. Connect it from
/// anywhere.
///
/// # Errors
/// As [`Error`] says; `EMFILE` and the like as [`Error::Socket`].
pub fn tcp_socket(net: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    socket_in(net, AddressFamily::INET)
}

/// Makes a TCP socket inside the namespace that listens on `address`; non-blocking,
/// close-on-exec. Port 0 picks one.
///
/// # Errors
/// As [`Error`] says.
pub fn listen_tcp(
    net: BorrowedFd<'_>,
    address: SocketAddr,
    backlog: i32,
) -> Result<OwnedFd, Error> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_in(net, family)?;
    // The socket knows its namespace, so the rest is done from here.
    let listen = || -> rustix::io::Result<()> {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, backlog)
    };
    listen().map_err(|source| Error::Listen {
        address,
        source: source.into(),
    })?;
    Ok(socket)
}

fn socket_in(net: BorrowedFd<'_>, family: AddressFamily) -> Result<OwnedFd, Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    run_in(net, || {
        rustix::net::socket_with(family, SocketType::STREAM, flags, None)
    })?
    .map_err(|error| Error::Socket(error.into()))
}
