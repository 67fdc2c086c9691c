//! An HTTP/1.1 reverse proxy as a library: parsing, framing checks, forwarding, idle connections, upgrades.
//!
//! Both hops of an invocation (client to `bismuthfe`, `bismuthfe` to `bismuthd`, `bismuthd` into the
//! container) are the same act: take a request off one HTTP/1.1 connection, put it on another, and
//! carry the answer back, with neither side able to tell that anything stood in between.
//!
//! ```text
//!            guard           hyper server          hyper client
//!  socket ─► framing ─► serve_connection ─► service ─► exchange ─► Connection ─► socket
//!            refuses                          │  ▲                    ▲
//!            smuggling                 Body, Replay, headers      Pool lends it
//! ```
//!
//! The happy path:
//! 1. [`server::serve_connection`] reads heads within limits; [`guard`] follows the framing byte by
//!    byte beside hyper and refuses what two parsers could read in two ways.
//! 2. The service rewrites the head with [`headers`] and borrows a connection from its worker's
//!    [`pool::Pool`] (or opens one).
//! 3. [`forward::exchange`] sends the request, knows whether a byte was written when that fails, and
//!    returns a [`forward::Reply`] whose body streams with back-pressure and gives the
//!    connection back at its end.
//! 4. An upgrade becomes a [`tunnel`]; a failure becomes a [`problem::Problem`].
//!
//! Everything here lives on one thread: types are `Rc`-based, and [`client::Connection`] spawns its
//! driver with `spawn_local`, so callers run inside a `LocalSet` (or a local runtime).

pub mod body;
pub mod client;
mod expect;
pub mod forward;
mod framing;
pub mod guard;
pub mod headers;
pub mod pool;
pub mod problem;
pub mod replay;
pub mod server;
pub mod target;
pub mod trace;
pub mod tunnel;

pub use body::{Body, BodyError, End, OnEnd, Outcome};
pub use client::{Connection, Transport};
pub use forward::{Deadlines, ExchangeError, Reply, exchange};
pub use pool::{Lease, Pool, PoolLimits};
pub use problem::Problem;
pub use replay::Replay;
pub use server::{ClientConn, Limits, ServeError, serve_connection};
