//! Serving one client connection, within limits.
//!
//! ```text
//!  accepted ─► first byte ─► head ─► service ─► answer ─► idle ─► head ...
//!     │ 10 s       │ 10 s      │                  │ 30 s    │ 75 s
//!     ▼            ▼           ▼                  ▼         ▼
//!   close      408, close   refused: 4xx,      cut off    close
//!                           close              (client does not read)
//! ```
//!
//! One task per connection: hyper, the [`guard`](crate::guard), the deadlines and the drain signal are polled together. Timers are
//! re-armed lazily, so that a busy connection touches none.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::body::Body;
use crate::client::MAX_BUFFER;
use crate::expect::Gate;
use crate::framing::HeadLimits;
use crate::guard::{ConnState, Guard, GuardedIo, Refusal};
use crate::problem::Problem;
use crate::target;
use crate::trace;
use crate::tunnel::Tunnel;

/// How long we read on after an answer to a request that was not read to its end: closing at once would reset the connection
/// and could destroy the answer on its way (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// Bounds on one client connection.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Which program answers refusals (`bismuthfe`).
    pub component: &'static str,
    /// Bytes of a request head.
    pub max_head_bytes: usize,
    /// Fields of a request head, at most 100 (hyper parses so many without allocating).
    pub max_head_fields: usize,
    /// From accepting a connection to its first byte.
    pub first_byte_timeout: Duration,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Between an answer and the next request's first byte.
    pub keep_alive_timeout: Duration,
    /// How long a client may leave what we send it unread.
    pub write_timeout: Duration,
    /// A client that ends its sending side this soon after its request says "that was all" (`nc -N`); one that does so
    /// later has left. The wire cannot tell them apart, and a FIN sent along with the request is seen within one turn of
    /// the loop. Zero where clients never do so: then whoever ends its side has left.
    pub half_close_window: Duration,
}

impl Limits {
    /// 64 KiB and 100 fields of head within 10 s, 75 s of keep-alive (nginx's default, longer than our own pools
    /// keep a connection), 30 s for a client that does not read,
    /// 20 ms for one that ends its side with its request.
    pub fn new(component: &'static str) -> Self {
        Limits {
            component,
            max_head_bytes: 64 * 1024,
            max_head_fields: 100,
            first_byte_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            half_close_window: Duration::from_millis(20),
        }
    }
}

/// Why a connection ended otherwise than by agreement. For logs: the client was told what it could be told.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connection broke, the client left while it was served, or a response broke.
    #[error("serve a connection")]
    Http(#[source] hyper::Error),
    /// A bound of [`Limits`] passed.
    #[error("a connection was {0} for too long")]
    TimedOut(&'static str),
}

/// The client's connection, as the service sees it.
#[derive(Debug, Clone)]
pub struct ClientConn {
    state: Rc<ConnState>,
}

impl ClientConn {
    /// Who connected.
    pub fn peer(&self) -> SocketAddr {
        self.state.peer
    }

    /// After this request's 101 the connection belongs to `tunnel`.
    pub(crate) fn become_tunnel(&self, tunnel: Tunnel) {
        self.state.opaque.set(true);
        *self.state.tunnel.borrow_mut() = Some(tunnel);
    }

    /// Whether the client already sends the body of the request being served, so that asking for it is idle.
    pub(crate) fn sends_body(&self) -> bool {
        self.state.body_begun.get() || self.state.heads.get() > self.state.started.get()
    }

    /// Opens `gate` should the client send its body without being asked.
    pub(crate) fn watch_gate(&self, gate: Option<Arc<Gate>>) {
        *self.state.gate.borrow_mut() = gate;
    }
}

/// One request being answered; part of the answer's body.
pub(crate) struct InFlight(Rc<ConnState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.finished.set(self.0.finished.get() + 1);
        self.0.idle_since.set(Instant::now());
    }
}

/// Serves one connection until it ends. When `drain` completes, the request in flight is answered with
/// `Connection: close`, and an idle connection closes at once.
///
/// `service` is called with each request that is sound: one valid `Host`, unambiguous framing, within limits.
/// When the client leaves, the future that it returned is dropped.
///
/// # Errors
/// [`ServeError`], for the log.
pub async fn serve_connection<T, S, F>(
    io: T,
    peer: SocketAddr,
    limits: &Limits,
    drain: impl Future<Output = ()>,
    service: S,
) -> Result<(), ServeError>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Fn(Request<Incoming>, ClientConn) -> F,
    F: Future<Output = Response<Body>>,
{
    let state = ConnState::new(peer);
    let head_limits = HeadLimits {
        max_bytes: limits.max_head_bytes,
        max_fields: limits.max_head_fields,
    };
    let guard = Guard::new(io, head_limits, limits.half_close_window, state.clone());
    let guard = Rc::new(RefCell::new(guard));
    let component = limits.component;
    let served = service_fn(|request| {
        // Counted when hyper hands it over, not when it is first polled.
        state.started.set(state.started.get() + 1);
        answer(&state, component, request, &service)
    });
    // Without `pipeline_flush`: with it hyper forgets to flush answers when it closes before unread input.
    let connection = Builder::new()
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(GuardedIo(guard.clone())), served);
    let mut serving = Serving {
        connection,
        guard: &guard,
        state: &state,
        limits,
        alarm: Alarm::default(),
        draining: false,
    };
    let mut drain = pin!(drain);
    poll_fn(|cx| serving.poll(cx, drain.as_mut())).await?;
    let tunnel = state.tunnel.take();
    if let Some(tunnel) = tunnel {
        let parts = serving.connection.into_parts();
        tunnel.run(parts.io.into_inner(), parts.read_buf).await;
    } else if guard.borrow().has_unread_input() {
        drop(serving);
        // Whether the client closes in time makes no difference to us.
        let _ = tokio::time::timeout(LINGER, GuardedIo(guard).discard()).await;
    }
    Ok(())
}

/// Calls the service for a sound request, and answers others here.
///
/// The service's future is made where it is awaited: made earlier, it would be copied on its way into hyper, a few KiB per request.
async fn answer<S, F>(
    state: &Rc<ConnState>,
    component: &'static str,
    mut request: Request<Incoming>,
    service: &S,
) -> Result<Response<Body>, Infallible>
where
    S: Fn(Request<Incoming>, ClientConn) -> F,
    F: Future<Output = Response<Body>>,
{
    let in_flight = InFlight(state.clone());
    let refused = match state.refused.get() {
        Some(refusal) if state.started.get() == state.heads.get() => {
            Some(refuse(component, refusal))
        }
        _ => check_target(component, &mut request),
    };
    let response = match refused {
        None => {
            let state = state.clone();
            service(request, ClientConn { state }).await
        }
        Some(problem) => {
            let mut response = problem.into_response();
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            response
        }
    };
    Ok(response.map(|body| body.with_in_flight(in_flight)))
}

fn refuse(component: &'static str, refusal: Refusal) -> Problem {
    let (status, code, detail) = refusal.describe();
    Problem::new(status, code, component, detail).request_id(trace::new_request_id())
}

fn check_target(component: &'static str, request: &mut Request<Incoming>) -> Option<Problem> {
    let error = target::check(request).err()?;
    let (status, code) = match error {
        target::TargetError::Connect => (StatusCode::METHOD_NOT_ALLOWED, "connect_not_served"),
        _ => (StatusCode::BAD_REQUEST, "bad_host"),
    };
    let problem = Problem::new(status, code, component, error.to_string());
    Some(problem.request_id(trace::request_id(request.headers_mut())))
}

/// What is polled together for one connection.
struct Serving<'a, T, S: HttpService<Incoming>> {
    connection: hyper::server::conn::http1::Connection<TokioIo<GuardedIo<T>>, S>,
    guard: &'a Rc<RefCell<Guard<T>>>,
    state: &'a Rc<ConnState>,
    limits: &'a Limits,
    alarm: Alarm,
    draining: bool,
}

impl<T, S> Serving<'_, T, S>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        drain: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Result<(), ServeError>> {
        if !self.draining && drain.poll(cx).is_ready() {
            self.draining = true;
            self.close_after_answer();
        }
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
                return Poll::Ready(ended.map_err(ServeError::Http));
            }
            if self.is_last_request_of_half_closed() {
                self.draining = true;
                self.close_after_answer();
                continue;
            }
            if let Poll::Ready(Err(left)) = self.poll_gate(cx) {
                return Poll::Ready(Err(left));
            }
            match self.alarm.poll(self.deadline(), cx) {
                None => return Poll::Pending,
                Some(Wait::Head) => self.guard.borrow_mut().refuse(Refusal::HeadTimeout),
                Some(wait) => return Poll::Ready(wait.ended()),
            }
        }
    }

    fn close_after_answer(&mut self) {
        Pin::new(&mut self.connection).graceful_shutdown();
    }

    /// The client said "that was all", and what it asked last is being answered.
    fn is_last_request_of_half_closed(&self) -> bool {
        let state = self.state;
        !self.draining && state.half_closed.get() && state.started.get() == state.heads.get()
    }

    /// While a body waits for its upstream to ask for it, hyper does not read; somebody must see the client send or leave.
    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServeError>> {
        let Some(gate) = self.state.gate.borrow().clone() else {
            return Poll::Pending;
        };
        match self.guard.borrow_mut().poll_read_ahead(cx) {
            Poll::Ready(Ok(())) => {
                *self.state.gate.borrow_mut() = None;
                gate.open();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(ServeError::TimedOut("left by its client"))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn deadline(&self) -> Option<(Instant, Wait)> {
        let (state, limits) = (self.state, self.limits);
        if let Some(since) = state.stalled_since.get() {
            return Some((since + limits.write_timeout, Wait::Write));
        }
        if state.is_busy() {
            return None;
        }
        if let Some(since) = state.partial_since.get() {
            return Some((since + limits.head_timeout, Wait::Head));
        }
        let since = state.idle_since.get();
        Some(match state.heads.get() {
            0 => (since + limits.first_byte_timeout, Wait::FirstByte),
            _ => (since + limits.keep_alive_timeout, Wait::Idle),
        })
    }
}

/// What a connection is waited on for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    FirstByte,
    Head,
    Idle,
    Write,
}

impl Wait {
    fn ended(self) -> Result<(), ServeError> {
        match self {
            Wait::Idle => Ok(()),
            Wait::FirstByte => Err(ServeError::TimedOut("silent from the start")),
            Wait::Head => Err(ServeError::TimedOut("sending a head")),
            Wait::Write => Err(ServeError::TimedOut("not reading its answer")),
        }
    }
}

/// One timer per connection. A deadline that moves away is not re-armed before the old one fires.
#[derive(Default)]
struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    fn poll(&mut self, deadline: Option<(Instant, Wait)>, cx: &mut Context<'_>) -> Option<Wait> {
        let (deadline, wait) = deadline?;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Some(wait);
            }
            sleep.as_mut().reset(deadline);
        }
        None
    }
}
