//! Answers one request for one container: admission, cold start, forwarding or execution.
//!
//! ```text
//!  admission ─► running? ─► proxy or execute ─► head ─► body … end ─► the permit is released
//!   (queue)      (start)         (run)
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use bismuth_http::headers::{self, CONTAINER_ID};
use bismuth_http::trace;
use bismuth_http::{Body, ClientConn, End, OnEnd, Problem, Reply};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::exec;
use super::metrics::{Metrics, StartKind};
use super::problems::{not_ready, problem, refused};
use super::server::{self, ServerEndpoint, UpstreamPool};
use crate::node::admission::Permit;
use crate::node::slot::{ContainerEndpoint, Slot, Target};

/// Beyond its own bound a start may take this long to say why it failed.
const FAILURE_BOUND: Duration = Duration::from_secs(2);

/// It is released when the answer has gone out, however that ended.
impl OnEnd for Permit {
    fn on_end(&mut self, _end: End) {}
}

/// Answers a request. `rest` is the path after the container's own part.
pub async fn answer(
    slot: Arc<Slot>,
    pool: &UpstreamPool,
    metrics: &Metrics,
    mut request: Request<Incoming>,
    rest: PathAndQuery,
    client: ClientConn,
) -> Response<Body> {
    let request_id = headers::request_id(request.headers_mut());
    let parent = headers::traceparent(request.headers_mut());
    let mut response = match try_answer(&slot, pool, metrics, request, rest, &client).await {
        Ok(response) => response,
        Err(problem) => {
            metrics.refused(problem.code);
            problem.request_id(request_id.clone()).into_response()
        }
    };
    let head = response.headers_mut();
    head.insert(trace::REQUEST_ID, request_id);
    head.insert(trace::TRACEPARENT, parent);
    if let Ok(id) = HeaderValue::from_str(&slot.container_id.to_string()) {
        head.insert(CONTAINER_ID, id);
    }
    response
}

async fn try_answer(
    slot: &Slot,
    pool: &UpstreamPool,
    metrics: &Metrics,
    request: Request<Incoming>,
    rest: PathAndQuery,
    client: &ClientConn,
) -> Result<Response<Body>, Problem> {
    let timeout = Duration::from_millis(slot.definition.timeout_ms);
    let came = Instant::now();
    let permit = slot.admission.admit(timeout).await;
    let permit = permit.map_err(|r| refused(slot.container_id, r))?;
    let entered = Instant::now();
    let (endpoint, found) = running(slot).await?;
    let started = Instant::now();
    let request = upstream_request(request, rest)?;
    let mut reply = match &endpoint.target {
        Target::Server { port } => {
            let server = ServerEndpoint::new(Arc::clone(&endpoint), *port);
            Answer::Proxied(server::forward(pool, slot, &server, request, client).await?)
        }
        Target::Exec(target) => {
            Answer::Executed(exec::run(slot, endpoint.start_id, target, request).await?)
        }
    };
    metrics.answered(found);
    let head = reply.response_mut().headers_mut();
    headers::strip_reserved(head);
    headers::server_timing(
        head,
        &[
            (found.name(), None),
            ("queue", Some(entered - came)),
            ("start", Some(started - entered)),
            ("run", Some(started.elapsed())),
        ],
    );
    Ok(match reply {
        Answer::Proxied(reply) => reply.deliver(client, Some(Box::new(permit))),
        Answer::Executed(response) => response.map(|body| body.with_end(Box::new(permit))),
    })
}

enum Answer {
    Proxied(Reply),
    Executed(Response<Body>),
}

impl Answer {
    fn response_mut(&mut self) -> &mut Response<Body> {
        match self {
            Self::Proxied(reply) => reply.response_mut(),
            Self::Executed(response) => response,
        }
    }
}

async fn running(slot: &Slot) -> Result<(Arc<ContainerEndpoint>, StartKind), Problem> {
    if let Some(endpoint) = slot.endpoint() {
        return Ok((endpoint, StartKind::Warm));
    }
    let bound = Duration::from_millis(slot.definition.startup_timeout_ms) + FAILURE_BOUND;
    match slot.ensure_ready(bound).await {
        Ok(endpoint) => Ok((endpoint, StartKind::Cold)),
        Err(why) => Err(not_ready(slot.container_id, &why)),
    }
}

/// The request as it is sent to the program.
fn upstream_request(
    request: Request<Incoming>,
    rest: PathAndQuery,
) -> Result<Request<Body>, Problem> {
    let (mut head, body) = request.into_parts();
    head.uri = Uri::from(rest);
    headers::strip_request(&mut head.headers);
    headers::strip_reserved(&mut head.headers);
    if head.method == http::Method::CONNECT {
        return Err(problem(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "CONNECT is not for functions",
        ));
    }
    Ok(Request::from_parts(head, Body::from(body)))
}
