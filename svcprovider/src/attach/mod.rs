//! Takes over the containers' listening sockets from bismuthd and serves them on worker threads.
//!
//! ```text
//!   bismuthd ── handover socket ──► control: one task per bismuthd
//!                                      │ Attach: into the table, to the thread with the fewest
//!                                      │ Detach: out of the table, told to stop
//!                                      ▼
//!              ┌── thread svc-0: for each of its sockets accept ─► connection ─► http::answer(caller)
//!              └── thread svc-1: …
//! ```
//!
//! - A container's socket is served by one thread and needs one descriptor, one waiting task and its place in the table.
//! - Who is calling is known from the socket, for all connections that it accepts.
//! - Detaching stops accepting at once, ends idle connections, and gives requests in flight [`AttachConfig::end_bound`]. So does
//!   the end of the process; what is not accepted yet waits in the backlog for the next one.
//! - A bismuthd that goes away changes nothing: its containers go on, and so do their sockets.

mod control;
mod serve;
mod socket_table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bismuth_daemon::{Shutdown, cores, run_per_core};
use bismuth_handover::{BindError, Listener};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

use crate::http::AppState;
pub use socket_table::SocketCount;
use socket_table::SocketTable;

/// Accepting fails when descriptors run out; they come back as connections end.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// bismuthd connections at a time: one for each node, one for each that is being restarted.
const MAX_CONTROL: usize = 64;

/// How sockets are taken and served.
#[derive(Clone, Debug)]
pub struct AttachConfig {
    /// Where bismuthd connects.
    pub socket: PathBuf,
    /// Threads that serve functions.
    pub workers: usize,
    /// How long requests may take to end when their container is detached, or this process ends.
    pub end_bound: Duration,
}

/// Why sockets cannot be taken and served.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AttachError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("start the threads that serve functions")]
    Workers(#[source] cores::CoresError),
    #[error("a thread that serves functions did not start")]
    WorkerGone,
    #[error("serve functions")]
    Failed(#[source] cores::CoresError),
}

/// The handover socket, taken.
#[derive(Debug)]
pub struct Attach {
    config: AttachConfig,
    listener: Listener,
    sockets: SocketTable,
}

impl Attach {
    /// Takes the handover socket: nobody else serves it from now on. Call it in a tokio runtime.
    ///
    /// # Errors
    /// [`AttachError::Bind`], which says if another svcprovider serves it.
    pub fn bind(config: AttachConfig) -> Result<Self, AttachError> {
        let listener = Listener::bind(&config.socket)?;
        Ok(Self {
            config,
            listener,
            sockets: SocketTable::default(),
        })
    }

    /// What tells how many containers are attached.
    pub fn socket_count(&self) -> SocketCount {
        self.sockets.socket_count()
    }

    /// Serves until the shutdown, and then what is in flight.
    ///
    /// # Errors
    /// When the threads cannot be started, or one of them fails.
    pub async fn run(self, app: AppState, shutdown: Shutdown) -> Result<(), AttachError> {
        let end_bound = self.config.end_bound;
        let secrets = Arc::clone(&app.secrets);
        let count = self.config.workers.max(1);
        let (started, mut starting) = mpsc::channel(count);
        let stopping = shutdown.clone();
        let cores = run_per_core(count, "svc", move |_core| {
            serve::run(started.clone(), app.clone(), end_bound, stopping.clone())
        })
        .map_err(AttachError::Workers)?;
        let mut workers = Vec::new();
        while workers.len() < count {
            workers.push(starting.recv().await.ok_or(AttachError::WorkerGone)?);
        }
        let mut sockets = self.sockets;
        sockets.serve_with(workers, &shutdown);
        let sockets = Arc::new(sockets);
        let mut finished = Box::pin(cores.finished());
        let mut connections = JoinSet::new();
        loop {
            // All arms are safe to cancel.
            tokio::select! {
                () = shutdown.cancelled() => break,
                ended = &mut finished => return ended.map_err(AttachError::Failed),
                Some(_ended) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < MAX_CONTROL => match accepted {
                    Ok(connection) => {
                        let (sockets, secrets) = (Arc::clone(&sockets), Arc::clone(&secrets));
                        connections.spawn(control::serve(connection, sockets, secrets));
                    }
                    Err(error) => {
                        warn!(error = bismuth_base::chain(&error), "cannot accept a bismuthd");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        }
        connections.shutdown().await;
        drop(sockets);
        finished.await.map_err(AttachError::Failed)
    }
}
