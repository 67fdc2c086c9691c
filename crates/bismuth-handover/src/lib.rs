//! The handover protocol: bismuthd passes the listening sockets of containers to svcprovider.
//!
//! ```text
//!        bismuthd                                  │              svcprovider
//!                                                  │
//!   Client::connect ── Hello { node } ─────────────┼──► Listener::accept ─► Connection
//!                   ◄─ Welcome ────────────────────┼──
//!   held            ── List ───────────────────────┼──►
//!                   ◄─ HeldSockets, … ─────────────┼──      what it holds for this node
//!   detach          ── Detach { container } ───────┼──►
//!                   ◄─ Done ───────────────────────┼──
//!   attach          ── Attach { whose it is } + fd ┼──►      accepts on the socket from now on
//!                   ◄─ Done ───────────────────────┼──
//!   duplicate       ── Duplicate { container } ────┼──►
//!                   ◄─ Listener + fd, or Absent ───┼──      and holds its own descriptor on
//!   secret          ── Secret { group, name } ─────┼──►
//!                   ◄─ Secret, or Absent ──────────┼──
//! ```
//!
//! **Both sides hold every listening socket**, so whoever dies, connections wait in the backlog of the other's descriptor. A new
//! svcprovider holds nothing and is given everything; a new bismuthd learns what is held, asks for descriptors back, and detaches
//! what should be gone. If both died, the socket died with them, and bismuthd makes a new one.
//!
//! The socket is a Unix socket of packets (`SOCK_SEQPACKET`, unix(7)): a message is a packet is a `sendmsg`, and a descriptor
//! travels with its message and no other. Only processes of the same user may speak (`SO_PEERCRED`). Requests are answered in
//! their order; answers carry their request's number, so that a call that was given up cannot be mistaken for the next.
//!
//! Several nodes may share a provider: each names itself, and sees and changes only what it attached.
//!
//! - [`message`]: what travels. Pure; decoding arbitrary bytes neither panics nor allocates more than it was given.
//! - [`Client`]: the side of bismuthd.
//! - [`Listener`], [`Connection`]: the side of svcprovider.

mod client;
pub mod message;
mod packets;
mod server;

pub use client::{CallError, Client, ConnectError};
pub use message::{Answer, Attachment, HeldSocket, NodeName, Request, SecretValue, TokenDigest};
pub use packets::TransportError;
pub use server::{BindError, Connection, Listener, Received};
