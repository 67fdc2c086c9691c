//! Client of svcprovider: forwards calls about secrets, purges groups.
//!
//! It is not needed for anything else: without it, or without its token, these calls are answered with 503 and all others work.

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use bismuth_base::chain;
use bismuth_model::ServiceGroup;
use bismuth_operator::{Call, CallError, OperatorClient, Purged, Refusal, read_body};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http_body_util::Full;

use crate::problem::Problem;

/// A daemon is restarted within about a second.
const RETRY_AFTER_SECONDS: u32 = 1;
/// A purge takes as long as there is data.
const PURGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether a call leaves something else than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Read,
    Write,
}

/// Forwards calls. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct SvcproviderClient {
    surface: OperatorClient,
    /// How long svcprovider may take over one call.
    timeout: Duration,
}

impl SvcproviderClient {
    pub(crate) fn new(surface: OperatorClient, timeout: Duration) -> Self {
        Self { surface, timeout }
    }

    /// Asks, and answers with what svcprovider answered.
    pub(crate) async fn forward(
        &self,
        call: Call,
        body: Bytes,
        effect: Effect,
    ) -> Result<Response, Problem> {
        let asking = async {
            let answer = self.surface.call(call, Full::new(body)).await?;
            let status = answer.status();
            Ok((status, read_body(&self.surface, answer).await?))
        };
        let (status, json) = self.with_timeout(asking, effect, self.timeout).await?;
        let headers = [
            (CONTENT_TYPE, "application/json"),
            (CACHE_CONTROL, "no-store"),
        ];
        Ok((status, headers, json).into_response())
    }

    /// Whether a purge could be asked for now.
    pub(crate) async fn probe(&self) -> Result<(), Problem> {
        let probing = self.surface.probe();
        self.with_timeout(probing, Effect::Read, self.timeout).await
    }

    /// Deletes all that a group has.
    pub(crate) async fn purge(&self, group: &ServiceGroup) -> Result<Purged, Problem> {
        let purging = self.surface.purge(group);
        self.with_timeout(purging, Effect::Write, PURGE_TIMEOUT)
            .await
    }

    async fn with_timeout<T>(
        &self,
        work: impl Future<Output = Result<T, CallError>>,
        effect: Effect,
        bound: Duration,
    ) -> Result<T, Problem> {
        match tokio::time::timeout(bound, work).await {
            Ok(done) => done.map_err(|error| problem(error, effect)),
            Err(_) => Err(no_answer(
                format!(
                    "svcprovider at {} did not answer within {} ms",
                    self.surface.address(),
                    bound.as_millis()
                ),
                effect,
            )),
        }
    }
}

fn problem(error: CallError, effect: Effect) -> Problem {
    let detail = chain(&error);
    match error {
        CallError::Refused(refusal) => refused(refusal),
        CallError::Connect { .. } | CallError::ConnectTimeout { .. } => unavailable(detail),
        CallError::Exchange { .. } | CallError::Stalled { .. } | CallError::Answer { .. } => {
            no_answer(detail, effect)
        }
        // The operator's fault and not the client's, who cannot do anything about it.
        CallError::Token(_) | CallError::Unauthorized { .. } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "svcprovider_token", detail)
        }
        CallError::Target { .. } => {
            Problem::new(StatusCode::BAD_REQUEST, "malformed_name", detail).field("name")
        }
        CallError::Url { .. } => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
        }
    }
}

fn unavailable(detail: String) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "svcprovider_unavailable",
        detail,
    )
    .retry_after(RETRY_AFTER_SECONDS)
}

/// There is no answer, so nobody knows what was done.
fn no_answer(detail: String, effect: Effect) -> Problem {
    match effect {
        Effect::Read => unavailable(detail),
        Effect::Write => Problem::unknown_outcome(format!(
            "{detail}; the change was made or was not: look before you try again"
        )),
    }
}

/// In svcprovider's words and under its name.
fn refused(refusal: Refusal) -> Problem {
    let status = refusal.status;
    let mut problem = if status.is_client_error() || status.is_server_error() {
        Problem::new(status, refusal.code, refusal.detail)
    } else {
        Problem::new(StatusCode::BAD_GATEWAY, refusal.code, refusal.detail)
    };
    problem.component = refusal.component.into();
    problem.retry_after = refusal.retry_after;
    problem
}
