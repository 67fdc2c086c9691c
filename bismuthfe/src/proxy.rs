//! Proxies one request: routes it, selects a backend, forwards it, and retries what was not executed.
//!
//! ```text
//! Call::read ─► resolve ─► select_slot ─► attempt ─► answer
//!                           ▲              │ not executed: next slot, from the retry budget
//!                           └──────────────┤ every slot unknown to its node: again, for two seconds, outside the budget
//!                                          └ executed, or perhaps: a problem (unless idempotent and unanswered)
//! ```

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use bismuth_http::headers::{self, Forwarded};
use bismuth_http::problem::{ERROR_HEADER, UNKNOWN_CONTAINER};
use bismuth_http::replay::REPLAY_LIMIT;
use bismuth_http::trace::{REQUEST_ID, TRACEPARENT};
use bismuth_http::{
    Body, ClientConn, Deadlines, End, ExchangeError, Lease, OnEnd, Replay, Reply, exchange,
};
use bismuth_model::{Affinity, ContainerId, FunctionId};
use bytes::{BufMut, BytesMut};
use http::header::{COOKIE, HOST, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Uri};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::backend_selection::{self, Candidate};
use crate::config::Config;
use crate::metrics::{Counted, Metrics};
use crate::resolve::resolve;
use crate::retry::{NewSlotWait, RetryBudget};
use crate::table::{Function, InFlight, RoutingTable, Slot};
use crate::table_updater::SharedTable;
use crate::upstream::Upstreams;

mod error;

use error::{AttemptError, RequestError};

/// What one worker forwards with.
pub struct Proxy {
    config: Arc<Config>,
    table: RefCell<Cache<Arc<ArcSwap<RoutingTable>>, Arc<RoutingTable>>>,
    upstreams: Upstreams,
    budget: Arc<RetryBudget>,
    metrics: Metrics,
}

/// A request as it will be sent, to whichever slot.
struct Call {
    method: Method,
    headers: HeaderMap,
    uri: Uri,
    /// Where the path that the function sees begins in the client's.
    rest_at: usize,
    replay: Replay,
    request_id: HeaderValue,
    traceparent: HeaderValue,
}

impl Proxy {
    /// A worker's proxy, routing by `table`; `budget` is every worker's.
    pub fn new(
        config: Arc<Config>,
        table: SharedTable,
        metrics: Metrics,
        budget: Arc<RetryBudget>,
    ) -> Rc<Self> {
        Rc::new(Proxy {
            upstreams: Upstreams::new(&config, metrics.clone()),
            table: RefCell::new(Cache::new(table)),
            budget,
            config,
            metrics,
        })
    }

    /// Closes connections that were idle too long, for ever.
    pub async fn keep_swept(&self) {
        self.upstreams.keep_swept().await;
    }

    pub async fn serve(
        self: Rc<Self>,
        request: Request<Incoming>,
        client: ClientConn,
    ) -> Response<Body> {
        let started = Instant::now();
        self.budget.earn();
        let mut call = Call::read(request);
        let counted = self.metrics.request();
        let mut response = match self.invoke(&mut call, &client, counted).await {
            Ok(response) => response,
            Err(error) => self.refuse(error, &call),
        };
        let answer = response.headers_mut();
        answer.entry(REQUEST_ID).or_insert(call.request_id);
        answer.entry(TRACEPARENT).or_insert(call.traceparent);
        self.metrics.response(response.status(), started.elapsed());
        response
    }

    fn refuse(&self, error: RequestError, call: &Call) -> Response<Body> {
        let problem = error.problem().request_id(call.request_id.clone());
        self.metrics.problem(problem.code);
        tracing::debug!(code = problem.code, detail = problem.detail, request_id = ?call.request_id, "refused");
        problem.into_response()
    }

    fn table(&self) -> Arc<RoutingTable> {
        self.table.borrow_mut().load().clone()
    }

    fn function(&self, id: FunctionId) -> Result<Arc<Function>, RequestError> {
        let table = self.table();
        let found = table.function(&id).cloned();
        found.ok_or(match table.complete {
            true => RequestError::UnknownFunction(id),
            false => RequestError::RoutingUnknown,
        })
    }

    async fn invoke(
        &self,
        call: &mut Call,
        client: &ClientConn,
        counted: Counted,
    ) -> Result<Response<Body>, RequestError> {
        let function = self.route(call, client)?;
        let (reply, in_flight) = self.try_slots(function, call, client).await?;
        let response_end = Box::new(ResponseEnd {
            metrics: self.metrics.clone(),
            _in_flight: in_flight,
            _counted: counted,
        });
        Ok(reply.deliver(client, Some(response_end)))
    }

    /// Finds the function, and makes the head what the node should see.
    fn route(&self, call: &mut Call, client: &ClientConn) -> Result<Arc<Function>, RequestError> {
        let host = call.headers.get(HOST).cloned();
        // An absolute target names the host too; where both are, they agree.
        let name = call.uri.host().map(Cow::Borrowed).or_else(|| {
            let host = host.as_ref()?;
            host.to_str().ok().map(Cow::Borrowed)
        });
        let path = call.uri.path();
        let table = self.table();
        let resolved =
            resolve(&table, name.as_deref(), path).map_err(|error| match table.complete {
                true => RequestError::Unrouted(error),
                false => RequestError::before_routing(error),
            })?;
        let function = self.function(resolved.function)?;
        let forwarded = Forwarded {
            peer: client.peer().ip(),
            proto: "http",
            host: host.as_ref(),
            prefix: resolved.prefix,
            trust_peer: self.config.trust_forwarded,
        };
        headers::add_forwarded(&mut call.headers, &forwarded);
        call.rest_at = path.len() - resolved.rest.len();
        Ok(function)
    }

    /// Asks one slot after the other until one executes the request, or might have.
    async fn try_slots(
        &self,
        mut function: Arc<Function>,
        call: &Call,
        client: &ClientConn,
    ) -> Result<(Reply, InFlight), RequestError> {
        let mut tried: Vec<ContainerId> = Vec::new();
        let mut last: Option<AttemptError> = None;
        let mut wait: Option<NewSlotWait> = None;
        let mut round_begins = false;
        loop {
            let slot = match (self.select_slot(&function, &tried, call), last.take()) {
                (None, None) => return Err(RequestError::NoBackend(function.id)),
                (Some(slot), None) => slot,
                // Each round of waiting asks one slot free of the budget: it has a bound of its own, and one function's first
                // requests must not take all retries.
                (Some(slot), Some(_)) if round_begins || self.budget.spend() => {
                    self.metrics.retry();
                    slot
                }
                // No slot is left to ask, or no retry to ask it with.
                (_, Some(failure)) => {
                    let wait =
                        wait.get_or_insert_with(|| NewSlotWait::new(self.config.new_slot_timeout));
                    match wait.next_delay() {
                        Some(delay) if failure.is_unknown_container() => {
                            tokio::time::sleep(delay).await
                        }
                        _ => return Err(RequestError::Attempt(failure)),
                    }
                    function = self.function(function.id)?;
                    tried.clear();
                    last = Some(failure);
                    round_begins = true;
                    continue;
                }
            };
            round_begins = false;
            match self.attempt(slot, &function, call, client).await {
                Ok(answered) => return Ok(answered),
                Err(failure)
                    if failure.may_go_elsewhere(&call.method) && call.replay.can_restart() =>
                {
                    tried.push(slot.container_id);
                    last = Some(failure);
                }
                Err(failure) => return Err(RequestError::Attempt(failure)),
            }
        }
    }

    fn select_slot<'a>(
        &self,
        function: &'a Function,
        tried: &[ContainerId],
        call: &Call,
    ) -> Option<&'a Slot> {
        let candidates = function.slots.iter().map(|slot| Candidate {
            load: slot.load.get(),
            excluded: tried.contains(&slot.container_id),
            suspect: self.upstreams.is_suspect(slot.node),
        });
        let index = match call.affinity(function) {
            Some(value) => {
                let ids = function.slots.iter().map(|slot| &slot.container_id);
                backend_selection::select_by_affinity(candidates.zip(ids), value)
            }
            None => backend_selection::select(candidates, function.concurrency),
        };
        index.map(|index| &function.slots[index])
    }

    /// Sends the request to one slot. An idle connection that turns out to be dead costs one more try of the same slot.
    async fn attempt(
        &self,
        slot: &Slot,
        function: &Function,
        call: &Call,
        client: &ClientConn,
    ) -> Result<(Reply, InFlight), AttemptError> {
        let in_flight = slot.load.enter();
        if let Some(lease) = self.upstreams.idle(slot.address) {
            match self.send(lease, slot, function, call, client).await {
                Err(failure)
                    if failure.was_dead_connection(&call.method) && call.replay.can_restart() =>
                {
                    tracing::debug!(node = %slot.node, "an idle connection was dead");
                }
                other => return other.map(|reply| (reply, in_flight)),
            }
        }
        let lease = match self.upstreams.connect(slot.address).await {
            Ok(lease) => lease,
            Err(source) => {
                self.upstreams.mark_suspect(slot.node);
                let node = slot.node;
                return Err(AttemptError::Unreachable { node, source });
            }
        };
        let sent = self.send(lease, slot, function, call, client).await;
        sent.map(|reply| (reply, in_flight))
    }

    async fn send(
        &self,
        lease: Lease,
        slot: &Slot,
        function: &Function,
        call: &Call,
        client: &ClientConn,
    ) -> Result<Reply, AttemptError> {
        let node = slot.node;
        let request = call
            .request_for(slot)
            .ok_or(AttemptError::BodySpent { node })?;
        let deadlines = Deadlines {
            head: function.longest_wait(),
            idle: function.idle_timeout,
        };
        let reply = exchange(lease, request, deadlines, client).await;
        let reply = reply.map_err(|source| AttemptError::Exchange { node, source })?;
        match reply.response().headers().get(ERROR_HEADER) {
            Some(code) if code == UNKNOWN_CONTAINER => Err(AttemptError::UnknownContainer {
                node,
                container: slot.container_id,
            }),
            _ => Ok(reply),
        }
    }
}

impl Call {
    fn read(request: Request<Incoming>) -> Self {
        let (mut parts, body) = request.into_parts();
        headers::strip_request(&mut parts.headers);
        headers::strip_reserved(&mut parts.headers);
        Call {
            request_id: headers::request_id(&mut parts.headers),
            traceparent: headers::traceparent(&mut parts.headers),
            method: parts.method,
            headers: parts.headers,
            uri: parts.uri,
            rest_at: 0,
            replay: Replay::new(Body::from(body), REPLAY_LIMIT),
        }
    }

    /// The request as this slot gets it, or `None` when the body is spent.
    fn request_for(&self, slot: &Slot) -> Option<Request<Body>> {
        let mut request = Request::new(self.replay.body()?);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target(&slot.prefix)?;
        *request.headers_mut() = self.headers.clone();
        if !self.headers.contains_key(HOST) {
            // HTTP/1.0 may come without; HTTP/1.1 may not go without.
            let host = HeaderValue::from_str(&slot.address.to_string()).ok()?;
            request.headers_mut().insert(HOST, host);
        }
        Some(request)
    }

    /// `{prefix}{rest}[?query]`, byte by byte as the client wrote it.
    fn target(&self, prefix: &str) -> Option<Uri> {
        let rest = &self.uri.path()[self.rest_at..];
        let query = self.uri.query();
        let length = prefix.len() + rest.len() + query.map_or(0, str::len) + 2;
        let mut target = BytesMut::with_capacity(length);
        target.put_slice(prefix.as_bytes());
        target.put_slice(if rest.is_empty() {
            b"/"
        } else {
            rest.as_bytes()
        });
        if let Some(query) = query {
            target.put_u8(b'?');
            target.put_slice(query.as_bytes());
        }
        Uri::from_maybe_shared(target.freeze()).ok()
    }

    /// The value that keeps this client on one container, if the function wants that and the client has one.
    fn affinity(&self, function: &Function) -> Option<&[u8]> {
        match function.affinity.as_ref()? {
            Affinity::Header(name) => self.headers.get(name.as_str()).map(HeaderValue::as_bytes),
            Affinity::Cookie(name) => {
                let cookies = self.headers.get_all(COOKIE).iter();
                let pairs = cookies.flat_map(|line| line.as_bytes().split(|b| *b == b';'));
                pairs
                    .map(<[u8]>::trim_ascii)
                    .find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            }
        }
    }
}

/// Held by an answer's body until it has ended.
struct ResponseEnd {
    metrics: Metrics,
    _in_flight: InFlight,
    _counted: Counted,
}

impl OnEnd for ResponseEnd {
    fn on_end(&mut self, end: End) {
        self.metrics.ended(end);
    }
}

/// Methods that may be sent twice (RFC 9110 section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE
    )
}

impl AttemptError {
    /// Whether a reused connection died under the request: with nothing written, or with nothing answered to a request
    /// that may be sent twice.
    fn was_dead_connection(&self, method: &Method) -> bool {
        match self {
            AttemptError::Exchange { source, .. } => {
                source.never_written() || (source.unanswered() && is_idempotent(method))
            }
            _ => false,
        }
    }

    /// Whether another slot may get the request: it was not executed, or may be executed twice.
    fn may_go_elsewhere(&self, method: &Method) -> bool {
        match self {
            AttemptError::Unreachable { .. } | AttemptError::UnknownContainer { .. } => true,
            AttemptError::Exchange { source, .. } => {
                !matches!(source, ExchangeError::RequestBody(_)) && self.was_dead_connection(method)
            }
            AttemptError::BodySpent { .. } => false,
        }
    }
}
