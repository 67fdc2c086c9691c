//! The error answers that a node makes itself, as problem details (RFC 9457).

use std::time::Duration;

use bismuth_http::problem::UNKNOWN_CONTAINER;
use bismuth_http::{ExchangeError, Problem};
use bismuth_model::{ContainerId, ContainerState};
use http::StatusCode;

use crate::node::admission::Refused;
use crate::node::slot::{NotReady, Slot, StartFailure};

/// How long a request whose connection broke waits to learn whether the program has ended.
const EXIT_REASON_BOUND: Duration = Duration::from_secs(1);

/// Who says so.
pub const COMPONENT: &str = "bismuthd";

pub fn problem(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(status, code, COMPONENT, detail.into())
}

/// Not now, but perhaps in a second.
pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Problem {
    problem(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1)
}

/// The container is not served here; the request was not executed.
pub fn unknown_container(id: ContainerId) -> Problem {
    let detail = format!("container {id} is not served by this node");
    problem(StatusCode::NOT_FOUND, UNKNOWN_CONTAINER, detail).retryable()
}

/// The request was not let in.
pub fn refused(id: ContainerId, refused: Refused) -> Problem {
    let detail = refused.to_string();
    match refused {
        Refused::QueueFull { .. } => {
            problem(StatusCode::TOO_MANY_REQUESTS, "queue_full", detail).retry_after(1)
        }
        Refused::WaitedTooLong(_) => unavailable("queue_timeout", detail),
        Refused::Closed => unknown_container(id),
    }
}

/// There is no running container.
pub fn not_ready(id: ContainerId, not_ready: &NotReady) -> Problem {
    match not_ready {
        NotReady::Failed(failure) => start_failure(failure),
        NotReady::StillStarting(ContainerState::Pulling) => {
            let detail = format!("the image of container {id} is still being pulled");
            unavailable("image_being_pulled", detail).retry_after(5)
        }
        NotReady::StillStarting(_) => {
            let detail = format!("container {id} was not started in time");
            problem(StatusCode::GATEWAY_TIMEOUT, "startup_timeout", detail).retry_after(1)
        }
        NotReady::Removed => unknown_container(id),
    }
}

/// It could not be started, or has ended.
pub fn start_failure(failure: &StartFailure) -> Problem {
    let wait = failure
        .until
        .saturating_duration_since(std::time::Instant::now());
    let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
    problem(failure.status, failure.code, failure.reason.clone()).retry_after(seconds.max(1))
}

/// What to say of a connection into a container that failed or broke: that is often the first sign of
/// its program's death, and its driver knows the rest a moment later. `broken` if it still runs.
pub async fn unless_it_ended(slot: &Slot, start_id: u64, broken: Problem) -> Problem {
    match slot.end_reason(start_id, EXIT_REASON_BOUND).await {
        Some(NotReady::Failed(failure)) => start_failure(&failure),
        _ => broken,
    }
}

/// The client stopped sending the body that it had announced.
pub fn body_timeout(detail: String) -> Problem {
    problem(StatusCode::REQUEST_TIMEOUT, "request_body_timeout", detail)
}

/// The client's body was malformed or broke off.
pub fn body_broken(detail: String) -> Problem {
    problem(StatusCode::BAD_REQUEST, "request_body_broken", detail)
}

/// The exchange with the program came to nothing.
pub fn exchange_failed(error: &ExchangeError, timeout_ms: u64) -> Problem {
    let detail = bismuth_base::chain(error);
    match error {
        ExchangeError::HeadTimeout { .. } => problem(
            StatusCode::GATEWAY_TIMEOUT,
            "function_timeout",
            format!("the function did not answer within {timeout_ms} ms"),
        ),
        ExchangeError::RequestSilent { .. } => body_timeout(detail),
        ExchangeError::RequestBody(_) => body_broken(detail),
        _ if error.is_malformed_response() => {
            problem(StatusCode::BAD_GATEWAY, "function_answer_malformed", detail)
        }
        _ => problem(
            StatusCode::BAD_GATEWAY,
            "function_connection_broken",
            detail,
        ),
    }
}
