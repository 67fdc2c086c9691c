//! Problem details (RFC 9457) that calls are refused with, and how errors map to them.
//!
//! `application/problem+json` in the same form as all programs of Bismuth, plus the `field` at fault where there is one.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bismuth_base::chain;
use bismuth_http::problem::ERROR_HEADER;
use bismuth_model::{DefinitionError, DefinitionErrorKind, FunctionDefinition};
use bismuth_registry::Error as RegistryError;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::COMPONENT;

/// ZooKeeper elects a new leader within seconds.
const RETRY_AFTER_SECONDS: u32 = 2;

/// Why a call was not done.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: Cow<'static, str>,
    /// Who says so.
    pub(crate) component: Cow<'static, str>,
    pub(crate) detail: String,
    pub(crate) field: Option<String>,
    /// Seconds after which the same call may succeed.
    pub(crate) retry_after: Option<u32>,
}

/// RFC 9457
// The members of `bismuth_http::Problem` in the same order, and `field`.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Members<'a> {
    title: &'a str,
    status: u16,
    /// A stable word for programs
    code: &'a str,
    component: &'a str,
    /// One sentence for people
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<&'a str>,
    retryable: bool,
    /// The field at fault, such as routes[0].hostname; `.` is the whole document
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<&'a str>,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            component: COMPONENT.into(),
            detail: detail.into(),
            field: None,
            retry_after: None,
        }
    }

    pub(crate) fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// ZooKeeper does not answer.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "zookeeper_unavailable",
            detail,
        )
        .retry_after(RETRY_AFTER_SECONDS)
    }

    /// A change may have been made or not. Not to be sent again unseen: a second `POST` makes a second function.
    pub(crate) fn unknown_outcome(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", detail)
    }

    /// A refused definition.
    pub(crate) fn definition(error: &DefinitionError) -> Self {
        let (status, code) = match error.kind {
            DefinitionErrorKind::Malformed => (StatusCode::BAD_REQUEST, "definition_malformed"),
            DefinitionErrorKind::OutOfRange => {
                (StatusCode::UNPROCESSABLE_ENTITY, "definition_out_of_range")
            }
            DefinitionErrorKind::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "definition_too_large")
            }
        };
        // What is not JSON at all is at fault as a whole.
        match error.field.as_str() {
            "." | "?" => Self::new(status, code, &error.reason).field("."),
            field => Self::new(status, code, error.to_string()).field(field),
        }
    }

    /// A refusal of the registry that may be about a field of `definition`.
    pub(crate) fn about(definition: &FunctionDefinition, error: RegistryError) -> Self {
        let RegistryError::RouteTaken { hostname, .. } = &error else {
            return error.into();
        };
        let index = definition
            .routes
            .iter()
            .position(|route| route.hostname == *hostname);
        let field = index.map_or("routes".to_owned(), |index| {
            format!("routes[{index}].hostname")
        });
        Self::from(error).field(field)
    }

    /// The response, once the request's id is known.
    pub(crate) fn render(&self, request_id: &HeaderValue) -> Response {
        let members = Members {
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: &self.code,
            component: &self.component,
            detail: &self.detail,
            request_id: request_id.to_str().ok(),
            retryable: self.retry_after.is_some(),
            field: self.field.as_deref(),
        };
        // Strings, integers and a bool: serialising them cannot fail.
        let json = serde_json::to_vec(&members).unwrap_or_default();
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Another program's code could be anything.
        let code = HeaderValue::from_str(&self.code);
        headers.insert(
            ERROR_HEADER,
            code.unwrap_or(HeaderValue::from_static("refused")),
        );
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The problem travels beside an empty response to the outermost layer, which knows the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        use RegistryError as E;
        let detail = chain(&error);
        let refused = |status, code: &'static str| Self::new(status, code, &detail);
        let too_large = || refused(StatusCode::PAYLOAD_TOO_LARGE, "definition_too_large");
        match error {
            E::FunctionUnknown { .. } => refused(StatusCode::NOT_FOUND, "unknown_function"),
            E::NodeUnknown { .. } => refused(StatusCode::NOT_FOUND, "unknown_node"),
            E::ContainerUnknown { .. } | E::BackendUnknown { .. } => {
                refused(StatusCode::NOT_FOUND, "unknown_container")
            }
            E::RouteTaken { .. } => refused(StatusCode::CONFLICT, "route_taken").field("routes"),
            E::FunctionChanged { .. } => {
                refused(StatusCode::CONFLICT, "function_changed").retry_after(1)
            }
            E::FunctionExists { .. } | E::ContainerExists { .. } => {
                refused(StatusCode::CONFLICT, "exists")
            }
            E::Contended { .. } => refused(StatusCode::CONFLICT, "contended").retry_after(1),
            E::TooManyBackends { .. } => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, "definition_out_of_range")
                    .field("max_instances")
            }
            E::NotBootstrapped { .. } => {
                refused(StatusCode::SERVICE_UNAVAILABLE, "not_bootstrapped")
            }
            E::UnknownOutcome { .. } => Self::unknown_outcome(detail),
            E::Record {
                source: bismuth_registry::codec::Error::TooLarge { field, .. },
                ..
            } => too_large().field(field),
            E::Tree(
                bismuth_coord::Error::TooLarge { .. }
                | bismuth_coord::Error::TransactionTooLarge { .. },
            ) => too_large().field("."),
            E::Tree(ref inner) if inner.is_unknown_outcome() => Self::unknown_outcome(detail),
            E::Tree(ref inner) if inner.is_unavailable() => Self::unavailable(detail),
            _ => refused(StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn a_problem_has_the_same_form_as_in_all_programs() {
        let id = HeaderValue::from_static("17");
        let ours = Problem::unavailable("why").render(&id);
        let theirs = bismuth_http::Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "zookeeper_unavailable",
            COMPONENT,
            "why",
        )
        .retry_after(RETRY_AFTER_SECONDS)
        .request_id(id)
        .into_response();
        assert_eq!(ours.status(), theirs.status());
        for (name, value) in theirs.headers() {
            // The request's id is put onto every answer by the router.
            assert!(
                name == "x-request-id" || ours.headers().get(name) == Some(value),
                "{name}"
            );
        }
        let ours: Value =
            serde_json::from_slice(&ours.into_body().collect().await.unwrap().to_bytes()).unwrap();
        let theirs: Value =
            serde_json::from_slice(&theirs.into_body().collect().await.unwrap().to_bytes())
                .unwrap();
        assert_eq!(ours, theirs);
    }
}
