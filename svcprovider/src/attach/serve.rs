//! A worker thread that accepts on containers' sockets, and its handle.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bismuth_daemon::{AcceptLoop, Backlog, FinishSignal, Shutdown};
use bismuth_http::{Limits, serve_connection};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::http::{self, AppState, Caller};

/// Connections of one container at a time; more wait in its backlog. A function has 100 requests at a time by default.
const CONNECTIONS_PER_CONTAINER: usize = 256;
/// Keys have 512 bytes, three times that when encoded; a function's client adds some hundred.
const HEAD_BYTES: usize = 16 << 10;

/// A socket on its way to the thread that serves it.
#[derive(Debug)]
pub(super) struct NewSocket {
    pub listener: Arc<TcpListener>,
    pub caller: Caller,
    pub stop: CancellationToken,
}

/// A thread that serves, as others see it.
#[derive(Debug)]
pub(super) struct Worker {
    runtime: Handle,
    // Unbounded: bismuthd asks for one at a time and waits for the answer.
    new_sockets: mpsc::UnboundedSender<(NewSocket, SocketCountGuard)>,
    sockets: Arc<AtomicUsize>,
}

/// One of a thread's sockets, as long as it is served.
#[derive(Debug)]
pub(super) struct SocketCountGuard(Arc<AtomicUsize>);

impl Drop for SocketCountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// How many sockets it serves.
    pub(super) fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    /// Has a socket watched by the thread's runtime.
    pub(super) fn register(&self, listener: StdListener) -> io::Result<TcpListener> {
        let _in_its_runtime = self.runtime.enter();
        TcpListener::from_std(listener)
    }

    /// Gives it one more socket to serve.
    pub(super) fn send(&self, new_socket: NewSocket) -> io::Result<()> {
        self.sockets.fetch_add(1, Ordering::Relaxed);
        let guard = SocketCountGuard(Arc::clone(&self.sockets));
        let sent = self.new_sockets.send((new_socket, guard));
        sent.map_err(|_| io::Error::other("the thread that serves has ended"))
    }
}

struct Deps {
    app: AppState,
    limits: Limits,
    end_bound: Duration,
    sockets: TaskTracker,
}

/// The work of one thread: says that it has started, and serves the sockets that arrive, until the shutdown and what was in flight then.
pub(super) async fn run(
    started: mpsc::Sender<Worker>,
    app: AppState,
    end_bound: Duration,
    shutdown: Shutdown,
) {
    let (sender, mut new_sockets) = mpsc::unbounded_channel();
    let worker = Worker {
        runtime: Handle::current(),
        new_sockets: sender,
        sockets: Arc::default(),
    };
    // Nobody waits for it if the process is ending already.
    let _nobody = started.try_send(worker);
    let deps = Rc::new(Deps {
        app,
        limits: Limits {
            max_head_bytes: HEAD_BYTES,
            ..Limits::new("svcprovider")
        },
        end_bound,
        sockets: TaskTracker::new(),
    });
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            arrived = new_sockets.recv() => match arrived {
                Some((new_socket, guard)) => drop(deps.sockets.spawn_local(accept(new_socket, guard, Rc::clone(&deps)))),
                None => break,
            }
        }
    }
    shutdown.cancelled().await;
    deps.sockets.close();
    // Each drains within the bound by itself.
    deps.sockets.wait().await;
}

/// Serves one socket until it is told to stop, and then what is in flight. What is not accepted yet waits for the next
/// svcprovider: bismuthd holds the socket, too.
async fn accept(new_socket: NewSocket, _guard: SocketCountGuard, deps: Rc<Deps>) {
    let NewSocket {
        listener,
        caller,
        stop,
    } = new_socket;
    let caller = Rc::new(caller);
    let accept = AcceptLoop {
        peers: "functions",
        max_connections: CONNECTIONS_PER_CONTAINER,
        first_byte_timeout: deps.limits.first_byte_timeout,
        drain_timeout: deps.end_bound,
        backlog: Backlog::Retain,
    };
    let served = accept.run(listener, stop, |accepted| {
        let (caller, deps) = (Rc::clone(&caller), Rc::clone(&deps));
        let guard = deps.app.metrics.connection();
        accepted.spawn_local(async move |stream, peer, finish| {
            let _guard = guard;
            serve(stream, peer, finish, &caller, &deps).await;
        });
    });
    if let Err(cut_off) = served.await {
        debug!("functions: {cut_off}");
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    finish: FinishSignal,
    caller: &Caller,
    deps: &Deps,
) {
    let service = |request, _connection| http::answer(&deps.app, caller, request);
    let served = serve_connection(stream, peer, &deps.limits, finish.requested(), service);
    if let Err(error) = served.await {
        debug!(
            error = bismuth_base::chain(&error),
            "a function's connection ended early"
        );
    }
}
