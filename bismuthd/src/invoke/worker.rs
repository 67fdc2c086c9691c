//! One worker: a thread with its own runtime, listener and connections.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bismuth_daemon::listen::CoreListener;
use bismuth_daemon::{AcceptLoop, Backlog, FinishSignal, Shutdown};
use bismuth_http::{Body, ClientConn, Limits, Pool, PoolLimits, Problem, serve_connection};
use bismuth_http::{headers, trace};
use bismuth_model::ContainerId;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::container;
use super::metrics::Metrics;
use super::problems::{COMPONENT, problem, unknown_container};
use super::server::UpstreamPool;
use crate::logs::serve::{self as log_serve, LogDirs};
use crate::node::reconcile::SlotTable;

/// Idle connections to programs are closed after this: gunicorn closes its own after 2 s, Node.js
/// after 5 s, and a connection that we close cannot be closed under us.
const IDLE: Duration = Duration::from_millis(1500);
/// Idle connections to one program, of one worker: as many as a burst leaves behind.
const IDLE_PER_PROGRAM: usize = 64;
/// Idle connections to all programs, of one worker: each costs two descriptors.
const IDLE_ALTOGETHER: usize = 1024;

/// The largest head that a frontend can be told to take, 96 KiB, and room for what it adds.
const HEAD_BYTES: usize = 112 * 1024;

/// What every worker is given.
#[derive(Clone)]
pub struct WorkerDeps {
    pub table: Arc<SlotTable>,
    pub logs: LogDirs,
    pub metrics: Metrics,
    /// Connections that one worker serves at a time.
    pub max_connections: usize,
    /// How long requests may take to end after the shutdown.
    pub drain: Duration,
}

/// Why a worker ended before the shutdown.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// Its listener could not be registered.
    #[error("listen on a worker's runtime")]
    Listen(#[source] std::io::Error),
}

struct Worker {
    deps: WorkerDeps,
    pool: UpstreamPool,
    limits: Limits,
}

/// Serves connections until the shutdown, and then what is in flight, bounded by the drain time.
pub async fn run(
    listener: CoreListener,
    deps: WorkerDeps,
    shutdown: Shutdown,
) -> Result<(), WorkerError> {
    let listener = listener.into_tokio().map_err(WorkerError::Listen)?;
    let pool = Pool::new(PoolLimits {
        max_idle_per_key: IDLE_PER_PROGRAM,
        max_idle: IDLE_ALTOGETHER,
        idle_timeout: IDLE,
    });
    let sweeper = tokio::task::spawn_local(pool.clone().keep_swept());
    let worker = Rc::new(Worker {
        deps,
        pool,
        limits: Limits {
            // Frontends close a connection when their client has left, which may be right after the request.
            half_close_window: Duration::ZERO,
            max_head_bytes: HEAD_BYTES,
            ..Limits::new(COMPONENT)
        },
    });
    let accept = AcceptLoop {
        peers: "frontends",
        max_connections: worker.deps.max_connections,
        first_byte_timeout: worker.limits.first_byte_timeout,
        drain_timeout: worker.deps.drain,
        backlog: Backlog::Serve,
    };
    let served = accept.run(listener, shutdown.token(), |accepted| {
        let worker = Rc::clone(&worker);
        accepted.spawn_local(|stream, peer, finish| serve(worker, stream, peer, finish));
    });
    if let Err(cut_off) = served.await {
        warn!("{cut_off}");
    }
    sweeper.abort();
    Ok(())
}

async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, finish: FinishSignal) {
    let service = |request, client| answer(Rc::clone(&worker), request, client);
    let served = serve_connection(stream, peer, &worker.limits, finish.requested(), service);
    if let Err(error) = served.await {
        debug!(%peer, error = bismuth_base::chain(&error), "a connection ended early");
    }
}

async fn answer(
    worker: Rc<Worker>,
    request: Request<Incoming>,
    client: ClientConn,
) -> Response<Body> {
    let problem = match route(request.uri().path_and_query()) {
        Route::Invoke(id, rest) => {
            let slot = worker.deps.table.load().get(&id).cloned();
            if let Some(slot) = slot {
                let (pool, metrics) = (&worker.pool, &worker.deps.metrics);
                return container::answer(slot, pool, metrics, request, rest, client).await;
            }
            unknown_container(id)
        }
        Route::Logs(id, query) => {
            match log_serve::answer(&worker.deps.logs, id, query.as_deref()) {
                Ok(response) => return response,
                Err(problem) => problem,
            }
        }
        Route::Malformed(detail) => {
            problem(StatusCode::NOT_FOUND, "malformed_container_id", detail)
        }
        Route::Unknown => {
            let detail = "a node answers /invoke/{container id} and /logs/{container id}";
            problem(StatusCode::NOT_FOUND, "unknown_path", detail)
        }
    };
    refuse(&worker, request, problem)
}

fn refuse(worker: &Worker, mut request: Request<Incoming>, problem: Problem) -> Response<Body> {
    worker.deps.metrics.refused(problem.code);
    let id = headers::request_id(request.headers_mut());
    let mut response = problem.request_id(id.clone()).into_response();
    response.headers_mut().insert(trace::REQUEST_ID, id);
    response
}

#[derive(Debug, PartialEq)]
enum Route {
    Invoke(ContainerId, PathAndQuery),
    Logs(ContainerId, Option<String>),
    Malformed(String),
    Unknown,
}

fn route(target: Option<&PathAndQuery>) -> Route {
    let target = target.map_or("/", PathAndQuery::as_str);
    if let Some(rest) = target.strip_prefix("/invoke/") {
        return with_id(rest, invoke);
    }
    if let Some(rest) = target.strip_prefix("/logs/") {
        return with_id(rest, |id, rest| {
            Route::Logs(id, rest.strip_prefix('?').map(str::to_owned))
        });
    }
    Route::Unknown
}

fn with_id(text: &str, then: impl FnOnce(ContainerId, &str) -> Route) -> Route {
    let end = text.find(['/', '?']).unwrap_or(text.len());
    match text[..end].parse() {
        Ok(id) => then(id, &text[end..]),
        Err(error) => Route::Malformed(bismuth_base::chain(&error)),
    }
}

fn invoke(id: ContainerId, rest: &str) -> Route {
    let rest = if rest.starts_with('/') {
        rest.to_owned()
    } else {
        format!("/{rest}")
    };
    match PathAndQuery::from_maybe_shared(Bytes::from(rest)) {
        Ok(rest) => Route::Invoke(id, rest),
        // A part of a valid target is one itself; say so instead of proving it.
        Err(error) => Route::Malformed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::{JoinHandle, LocalSet};

    use super::*;

    /// A worker on the test's own thread, with a table of no slots.
    struct TestWorker {
        address: SocketAddr,
        shutdown: Shutdown,
        worker: JoinHandle<Result<(), WorkerError>>,
    }

    impl TestWorker {
        fn start(max_connections: usize) -> Self {
            let listeners = bismuth_daemon::listen::bind_per_core(([127, 0, 0, 1], 0).into(), 1);
            let listener = listeners.unwrap().remove(0);
            let deps = WorkerDeps {
                table: Arc::default(),
                logs: LogDirs::new("/nonexistent".into()),
                metrics: Metrics::register(&mut prometheus_client::registry::Registry::default()),
                max_connections,
                drain: Duration::from_secs(20),
            };
            let shutdown = Shutdown::new();
            Self {
                address: listener.local_addr().unwrap(),
                shutdown: shutdown.clone(),
                worker: tokio::task::spawn_local(run(listener, deps, shutdown)),
            }
        }

        async fn refusal(&self) -> String {
            let mut client = TcpStream::connect(self.address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            client.write_all(request).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn a_post_in_the_backlog_at_the_shutdown_is_answered() {
        let local = LocalSet::new();
        let backlog = local.run_until(async {
            let worker = TestWorker::start(64);
            // The worker waits for connections, and is not polled again before the shutdown.
            worker.refusal().await;
            let request = format!(
                "POST /invoke/{CONTAINER} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
            );
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    let mut client = std::net::TcpStream::connect(worker.address).unwrap();
                    client.write_all(request.as_bytes()).unwrap();
                    client
                })
                .collect();
            worker.shutdown.trigger();
            worker.worker.await.unwrap().unwrap();
            clients
        });
        for mut client in backlog.await {
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("it is not reset");
            assert!(answer.contains("unknown_container"), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn more_silent_connections_than_allowed_do_not_keep_a_frontend_out() {
        let local = LocalSet::new();
        let bounded = local.run_until(async {
            let worker = TestWorker::start(4);
            let mut silent = Vec::new();
            for _ in 0..40 {
                silent.push(TcpStream::connect(worker.address).await.unwrap());
            }
            assert!(worker.refusal().await.contains("unknown_path"));
            let mut byte = [0];
            let closed = silent[0].read(&mut byte);
            let read = tokio::time::timeout(Duration::from_secs(5), closed).await;
            assert_eq!(read.expect("it made room").unwrap(), 0);
        });
        bounded.await;
    }

    const CONTAINER: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

    fn routed(target: &str) -> Route {
        route(Some(&target.parse().unwrap()))
    }

    #[test]
    fn the_rest_of_the_path_and_the_query_are_passed_on_byte_for_byte() {
        for (target, rest) in [
            ("", "/"),
            ("/", "/"),
            ("?a=1", "/?a=1"),
            ("/a%2Fb/../c?x=%20&y", "/a%2Fb/../c?x=%20&y"),
            ("//double", "//double"),
        ] {
            let Route::Invoke(id, passed) = routed(&format!("/invoke/{CONTAINER}{target}")) else {
                panic!("{target}");
            };
            assert_eq!(
                (id.to_string().as_str(), passed.as_str()),
                (CONTAINER, rest)
            );
        }
    }

    #[test]
    fn a_malformed_container_id_is_named_in_the_error() {
        assert!(
            matches!(routed("/invoke/nonsense/x"), Route::Malformed(d) if d.contains("nonsense"))
        );
        assert!(matches!(routed("/invoke/"), Route::Malformed(_)));
        assert_eq!(routed("/"), Route::Unknown);
        assert_eq!(routed(&format!("/invoked/{CONTAINER}")), Route::Unknown);
    }

    #[test]
    fn logs_keep_their_query() {
        let Route::Logs(_, query) = routed(&format!("/logs/{CONTAINER}?tail=5")) else {
            panic!();
        };
        assert_eq!(query.as_deref(), Some("tail=5"));
    }
}
