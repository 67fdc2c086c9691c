//! One exchange with an upstream: request out, response back, both streaming.
//!
//! ```text
//! exchange ─► request head, body (Progress watches it)      ─► upstream
//!          ◄─ 100 opens the gate, 101 makes a tunnel, else: ◄─
//!          ◄─ Reply { response, body: UpstreamBody }
//!                                  │ ends: the lease goes back to its pool
//!                                  │ breaks or is silent too long: an error, never a clean end
//!                                  └ dropped: the connection closes at once
//! ```
//!
//! An early response streams back while the request's body is still going up. hyper's server can send no `103 Early Hints`,
//! so informational responses other than 100 and 101 end here.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{Body, BodyError, Kind, OnEnd};
use crate::client::SendError;
use crate::expect::Gate;
use crate::headers;
use crate::pool::Lease;
use crate::server::ClientConn;
use crate::tunnel::Tunnel;

/// How long an exchange may wait.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// To the head of the response, from the request or from the last byte of its body that went out.
    pub head: Duration,
    /// Silence in a stream: a request body the client does not send, a response body the upstream does not send,
    /// an upgraded connection on which nothing moves.
    pub idle: Duration,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection failed before or while the request was sent, or before the response's head was complete.
    #[error(transparent)]
    Send(SendError),
    /// No head came in time.
    #[error("no response within {} ms", .after.as_millis())]
    HeadTimeout {
        /// The timeout that passed.
        after: Duration,
    },
    /// The client stopped sending the body it had announced.
    #[error("the request body was silent for {} ms", .after.as_millis())]
    RequestSilent {
        /// The timeout that passed.
        after: Duration,
    },
    /// The client's body was malformed or broke off.
    #[error("the request body could not be read")]
    RequestBody(#[source] SendError),
}

impl ExchangeError {
    /// Whether not one byte reached the upstream, so that the request may be tried elsewhere whatever its method.
    pub fn never_written(&self) -> bool {
        matches!(self, ExchangeError::Send(error) if !error.written)
    }

    /// Whether the upstream's connection broke without a byte of an answer, so that an idempotent request may be tried again.
    pub fn unanswered(&self) -> bool {
        matches!(self, ExchangeError::Send(error) if !error.answered)
    }

    /// Whether the upstream answered with something that is not HTTP.
    pub fn is_malformed_response(&self) -> bool {
        matches!(self, ExchangeError::Send(error) if error.source.is_parse())
    }
}

/// A response, with its hop-by-hop fields removed.
#[derive(Debug)]
pub struct Reply {
    response: Response<Body>,
    tunnel: Option<Tunnel>,
}

impl Reply {
    /// The response, to look at before it is delivered.
    pub fn response(&self) -> &Response<Body> {
        &self.response
    }

    /// The response, to change before it is delivered.
    pub fn response_mut(&mut self) -> &mut Response<Body> {
        &mut self.response
    }

    /// What the service returns. `on_end` learns when the response, or the tunnel it opens, has ended.
    pub fn deliver(self, client: &ClientConn, on_end: Option<Box<dyn OnEnd>>) -> Response<Body> {
        match (self.tunnel, on_end) {
            (Some(tunnel), on_end) => {
                client.become_tunnel(Tunnel { on_end, ..tunnel });
                self.response
            }
            (None, Some(on_end)) => self.response.map(|body| body.with_end(on_end)),
            (None, None) => self.response,
        }
    }
}

/// Sends `request` over `lease`, and returns when the head of the final response is there.
///
/// The request goes out as it is: the caller has set its target, [`headers::strip_request`] it and added what the upstream should know.
/// Dropping the future, or the reply's body, closes the upstream connection at once.
///
/// # Errors
/// [`ExchangeError`]; the connection is closed.
pub async fn exchange(
    mut lease: Lease,
    request: Request<Body>,
    deadlines: Deadlines,
    client: &ClientConn,
) -> Result<Reply, ExchangeError> {
    let progress = Rc::new(Progress::new());
    let (request, gate) = prepare(request, &progress, client);
    let gated = gate.is_some();
    if gated {
        client.watch_gate(gate);
    }
    let sent = {
        let send = lease.connection().send(request);
        within(send, &progress, deadlines).await
    };
    if gated {
        client.watch_gate(None);
    }
    Ok(receive(sent?, lease, progress, deadlines))
}

/// Puts the watchers on a request: for its progress, and for a body to be sent only when asked for.
fn prepare(
    request: Request<Body>,
    progress: &Rc<Progress>,
    client: &ClientConn,
) -> (Request<Body>, Option<Arc<Gate>>) {
    let (mut parts, mut body) = request.into_parts();
    parts.version = Version::HTTP_11;
    if body.is_end_stream() {
        progress.ended.set(true);
        parts.headers.remove(EXPECT);
        return (Request::from_parts(parts, body), None);
    }
    body = body.with_progress(progress.clone());
    let expects = headers::has_token(&parts.headers, &EXPECT, "100-continue");
    if !expects || client.sends_body() {
        return (Request::from_parts(parts, body), None);
    }
    let gate = Arc::new(Gate::default());
    let mut request = Request::from_parts(parts, body.with_gate(gate.clone()));
    let asked = gate.clone();
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            asked.open();
        }
    });
    (request, Some(gate))
}

/// Waits for the head, as long as the deadlines allow for what the request is doing.
async fn within(
    send: impl Future<Output = Result<Response<Incoming>, SendError>>,
    progress: &Progress,
    deadlines: Deadlines,
) -> Result<Response<Incoming>, ExchangeError> {
    let mut send = pin!(send);
    let mut look_at = progress.last.get() + deadlines.head.min(deadlines.idle);
    loop {
        tokio::select! {
            biased;
            sent = &mut send => return sent.map_err(|error| match progress.failed.get() {
                true => ExchangeError::RequestBody(error),
                false => ExchangeError::Send(error),
            }),
            () = sleep_until(look_at) => {
                let (now, deadline) = (Instant::now(), progress.deadline(deadlines));
                if deadline <= now {
                    return Err(progress.timed_out(deadlines));
                }
                // Whose turn it is may change unseen, and with it the deadline.
                look_at = deadline.min(now + deadlines.head.min(deadlines.idle));
            }
        }
    }
}

fn receive(
    response: Response<Incoming>,
    mut lease: Lease,
    progress: Rc<Progress>,
    deadlines: Deadlines,
) -> Reply {
    let (mut parts, incoming) = response.into_parts();
    headers::strip_response(parts.status, &mut parts.headers);
    // hyper's server answers in the client's version whatever this says, but would not chunk for a 1.0 here.
    parts.version = Version::HTTP_11;
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        parts.extensions.clear();
        let upstream = lease.connection().take_upgraded();
        let tunnel = upstream.map(|upstream| Tunnel {
            upstream,
            idle: deadlines.idle,
            on_end: None,
            lease,
        });
        let response = Response::from_parts(parts, Body::empty());
        return Reply { response, tunnel };
    }
    let body = match incoming.is_end_stream() {
        true => {
            lease.finish();
            Body::empty()
        }
        false => Kind::Upstream(UpstreamBody {
            incoming,
            lease: Some(lease),
            progress,
            idle: deadlines.idle,
            silence: None,
            broken: None,
        })
        .into(),
    };
    Reply {
        response: Response::from_parts(parts, body),
        tunnel: None,
    }
}

/// What a request's body is doing, for those who wait on the other end of it.
#[derive(Debug)]
pub(crate) struct Progress {
    last: Cell<Instant>,
    waits_for_client: Cell<bool>,
    ended: Cell<bool>,
    failed: Cell<bool>,
}

impl Progress {
    fn new() -> Self {
        Progress {
            last: Cell::new(Instant::now()),
            waits_for_client: Cell::new(false),
            ended: Cell::new(false),
            failed: Cell::new(false),
        }
    }

    pub(crate) fn note(&self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        self.waits_for_client.set(polled.is_pending());
        match polled {
            Poll::Pending => return,
            Poll::Ready(None) => self.ended.set(true),
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_))) => self.failed.set(true),
        }
        self.last.set(Instant::now());
    }

    /// Whether the client is the one to wait for.
    fn is_the_clients_turn(&self) -> bool {
        self.waits_for_client.get() && !self.ended.get()
    }

    fn deadline(&self, deadlines: Deadlines) -> Instant {
        let wait = match self.is_the_clients_turn() {
            true => deadlines.idle,
            false => deadlines.head,
        };
        self.last.get() + wait
    }

    fn timed_out(&self, deadlines: Deadlines) -> ExchangeError {
        match self.is_the_clients_turn() {
            true => ExchangeError::RequestSilent {
                after: deadlines.idle,
            },
            false => ExchangeError::HeadTimeout {
                after: deadlines.head,
            },
        }
    }
}

/// A response's body as it arrives. See the module.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    progress: Rc<Progress>,
    idle: Duration,
    /// Made when the upstream is first waited for.
    silence: Option<Pin<Box<Sleep>>>,
    /// Told after one turn, in which hyper flushes what came before the break.
    broken: Option<BodyError>,
}

impl UpstreamBody {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if self.silence.is_some() {
                    self.progress.last.set(Instant::now());
                }
                if self.incoming.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => self.break_off(BodyError::Read(error), cx),
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_silence(cx),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.incoming.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }

    fn break_off(
        &mut self,
        error: BodyError,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.lease = None;
        self.broken = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The upstream has nothing to say now; a request body still going up counts as movement.
    fn poll_silence(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let silence = self.silence.get_or_insert_with(|| {
            self.progress.last.set(Instant::now());
            Box::pin(tokio::time::sleep(self.idle))
        });
        while silence.as_mut().poll(cx).is_ready() {
            let deadline = self.progress.last.get() + self.idle;
            if deadline <= Instant::now() {
                let after = self.idle;
                return self.break_off(BodyError::Silent { after }, cx);
            }
            silence.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}
