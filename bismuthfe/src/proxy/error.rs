//! Errors of a request and of an attempt at one backend, and the problem response for each.

use std::net::Ipv4Addr;

use bismuth_http::{ExchangeError, Problem};
use bismuth_model::{ContainerId, FunctionId};
use http::StatusCode;

use crate::COMPONENT;
use crate::resolve::Unrouted;
use crate::upstream::ConnectError;

/// Seconds: a restart of bismuthd, a watch that has not fired yet.
const RETRY_AFTER_S: u32 = 1;

/// Why one slot did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttemptError {
    /// No connection to its node.
    #[error("node {node} cannot be reached")]
    Unreachable {
        node: Ipv4Addr,
        source: ConnectError,
    },
    /// The node does not serve this container (yet, or any more): not executed.
    #[error("node {node} does not know container {container}")]
    UnknownContainer {
        node: Ipv4Addr,
        container: ContainerId,
    },
    /// The exchange with the node failed.
    #[error("node {node} did not answer")]
    Exchange {
        node: Ipv4Addr,
        source: ExchangeError,
    },
    /// A dead connection took the beginning of a body that is too large to keep.
    #[error("the connection to node {node} was dead, and the request's body cannot be sent again")]
    BodySpent { node: Ipv4Addr },
}

/// Why a request gets no answer of a function.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Unrouted(Unrouted),
    #[error("there is no function {0}")]
    UnknownFunction(FunctionId),
    #[error("the routing is not known yet: the registry has not answered since the start")]
    RoutingUnknown,
    #[error("function {0} has no backend")]
    NoBackend(FunctionId),
    #[error(transparent)]
    Attempt(AttemptError),
}

impl AttemptError {
    pub(crate) fn is_unknown_container(&self) -> bool {
        matches!(self, AttemptError::UnknownContainer { .. })
    }

    fn problem(&self) -> Problem {
        let detail = bismuth_base::chain(self);
        let problem = |status, code| Problem::new(status, code, COMPONENT, detail);
        match self {
            AttemptError::Unreachable { .. } => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "node_unreachable")
                    .retry_after(RETRY_AFTER_S)
            }
            AttemptError::UnknownContainer { .. } => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "container_not_ready")
                    .retry_after(RETRY_AFTER_S)
            }
            AttemptError::BodySpent { .. } => {
                problem(StatusCode::BAD_GATEWAY, "upstream_broken").retryable()
            }
            AttemptError::Exchange { source, .. } => match source {
                ExchangeError::HeadTimeout { .. } => {
                    problem(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout")
                }
                ExchangeError::RequestSilent { .. } => {
                    problem(StatusCode::REQUEST_TIMEOUT, "request_timeout")
                }
                ExchangeError::RequestBody(_) => problem(StatusCode::BAD_REQUEST, "bad_body"),
                ExchangeError::Send(_) if source.is_malformed_response() => {
                    problem(StatusCode::BAD_GATEWAY, "upstream_malformed")
                }
                ExchangeError::Send(_) => {
                    problem(StatusCode::BAD_GATEWAY, "upstream_broken").retryable()
                }
            },
        }
    }
}

impl RequestError {
    /// Before the registry was read, only a malformed id is known to be wrong.
    pub(crate) fn before_routing(error: Unrouted) -> Self {
        match error {
            Unrouted::MalformedId(_) => RequestError::Unrouted(error),
            Unrouted::NoRoute { .. } => RequestError::RoutingUnknown,
        }
    }

    pub(crate) fn problem(&self) -> Problem {
        let problem = |status, code| Problem::new(status, code, COMPONENT, self.to_string());
        match self {
            RequestError::Unrouted(Unrouted::NoRoute { .. }) => {
                problem(StatusCode::NOT_FOUND, "no_route")
            }
            RequestError::Unrouted(Unrouted::MalformedId(_)) => {
                problem(StatusCode::NOT_FOUND, "malformed_function_id")
            }
            RequestError::UnknownFunction(_) => problem(StatusCode::NOT_FOUND, "unknown_function"),
            RequestError::RoutingUnknown => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "routing_unknown")
                    .retry_after(RETRY_AFTER_S)
            }
            RequestError::NoBackend(_) => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "no_backend").retry_after(RETRY_AFTER_S)
            }
            RequestError::Attempt(failure) => failure.problem(),
        }
    }
}
