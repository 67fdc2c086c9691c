//! This node's side of svcprovider: the service socket of each container, the token it is called with, and secrets.
//!
//! A service socket listens on `169.254.169.254:9000` inside the container's network namespace; svcprovider answers on it.
//!
//! ```text
//!  launch::start ────── add(attachment, socket) ──► ┌─────────┐
//!  reconcile ────── recover(attachment, dir) ─────► │ sockets │ ── changed ─► reconciler ── detach, take back, make, attach ─► svcprovider
//!  launch::teardown ── remove(container) ─────────► └─────────┘                 ▲  connects again within 100 ms
//!                                                                               └─ process: starts it, if told so
//! ```
//!
//! - A socket is made with its container, before the program runs, and is gone when the container is: it keeps its network
//!   namespace alive.
//! - The token is new at each start. The program has it in its environment; svcprovider has its digest.
//! - Starts and requests never wait for svcprovider: while it is away, connections wait in the socket's backlog.
//! - After a restart of this process the sockets are asked back from svcprovider; one that it does not hold is made anew.

mod plan;
mod process;
mod reconciler;
mod secrets;
mod sockets;
mod token;

pub use process::ProviderConfig;
pub use reconciler::{SocketReconciler, SocketReconcilerConfig};
pub use secrets::{SecretEnv, SecretSource, Secrets, SecretsError};
pub use sockets::ServiceSockets;
pub use token::Token;

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};

use bismuth_sandbox::{namespaces, netns};

/// Where a container finds its services.
pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(namespaces::SERVICE_ADDRESS, PORT);
const PORT: u16 = 9000;

/// [`ADDRESS`] for the program's environment.
pub const URL: &str = "http://169.254.169.254:9000";
const _: () = assert!(
    matches!(namespaces::SERVICE_ADDRESS.octets(), [169, 254, 169, 254]) && PORT == 9000,
    "the URL names the address"
);

/// Connections that wait while svcprovider is restarted: more than a container has requests at a time by default.
const BACKLOG: i32 = 256;

/// Makes the listening socket in a container's network namespace.
///
/// # Errors
/// As [`netns::Error`] says; `EADDRINUSE` if somebody listens there, which may be svcprovider.
pub fn listen(net: BorrowedFd<'_>) -> Result<OwnedFd, netns::Error> {
    netns::listen_tcp(net, SocketAddr::V4(ADDRESS), BACKLOG)
}
