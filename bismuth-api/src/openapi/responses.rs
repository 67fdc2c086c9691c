//! Error responses that several calls share, for the OpenAPI document. No value of these types is ever made.

#![allow(dead_code)]

use serde_json::{Value, json};
use utoipa::IntoResponses;

use crate::problem::Members;

/// A problem, as it is documented.
pub(crate) type ProblemBody = Members<'static>;
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// What every call may be answered with besides its own responses.
pub(super) fn unexpected() -> Value {
    json!({
        "description": "Any call: for a name that is not the API's (421, `foreign_host`), from a web page of another origin \
            (403, `foreign_origin`), or what should not happen (500, `internal`)",
        "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    })
}

/// ZooKeeper, for calls that read.
#[derive(IntoResponses)]
pub(crate) enum ReadFails {
    /// ZooKeeper does not answer, or the environment is not there (`zookeeper_unavailable`, `not_bootstrapped`)
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemBody),
}

/// ZooKeeper and the scheduler, for calls that place slots.
#[derive(IntoResponses)]
pub(crate) enum PlaceFails {
    /// ZooKeeper does not answer (`zookeeper_unavailable`: nothing was changed; `outcome_unknown`: look before you try again), the environment is not there (`not_bootstrapped`), or no node can take the function (`no_node`)
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemBody),
}

/// Of calls about one function.
#[derive(IntoResponses)]
pub(crate) enum NoFunction {
    /// No such function (`unknown_function`), or not an id (`malformed_id`)
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(ProblemBody),
}

/// Of calls with a query.
#[derive(IntoResponses)]
pub(crate) enum QueryRefused {
    /// A query that cannot be read (`query_malformed`)
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemBody),
}

/// Of calls with a definition.
#[derive(IntoResponses)]
pub(crate) enum DefinitionRefused {
    /// Not JSON, an unknown or missing field, a wrong type (`definition_malformed`), `field` names it; or the body broke off (`body_broken`), or an `Idempotency-Key` that is none (`idempotency_key_malformed`)
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemBody),
    /// The body did not arrive in time (`body_timeout`)
    #[response(status = 408, content_type = "application/problem+json")]
    Slow(ProblemBody),
    /// A hostname belongs to another function (`route_taken`), or somebody else changed the function meanwhile (`function_changed`, `contended`)
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemBody),
    /// Larger than a definition may be (`definition_too_large`)
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody),
    /// A value that is not allowed (`definition_out_of_range`), `field` names it; or a function was created with this `Idempotency-Key` and another definition (`idempotency_key_reused`)
    #[response(status = 422, content_type = "application/problem+json")]
    OutOfRange(ProblemBody),
}

/// Of a rollback.
#[derive(IntoResponses)]
pub(crate) enum RollbackRefused {
    /// Not JSON, an unknown field, not a number (`body_malformed`); or the body broke off (`body_broken`)
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemBody),
    /// The body did not arrive in time (`body_timeout`)
    #[response(status = 408, content_type = "application/problem+json")]
    Slow(ProblemBody),
    /// A hostname belongs to another function by now (`route_taken`), or somebody else changed the function meanwhile (`function_changed`, `contended`)
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemBody),
    /// Larger than it may be (`body_too_large`)
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody),
}

/// Of calls with the value of a secret.
#[derive(IntoResponses)]
pub(crate) enum SecretRefused {
    /// The name (`malformed_name`) or, in svcprovider's words, the name or the value is not allowed; or the body broke off (`body_broken`)
    #[response(status = 400, content_type = "application/problem+json")]
    NotAllowed(ProblemBody),
    /// The body did not arrive in time (`body_timeout`)
    #[response(status = 408, content_type = "application/problem+json")]
    Slow(ProblemBody),
    /// More than 64 KiB (`secret_too_large`)
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody),
}

/// svcprovider, for calls that read.
#[derive(IntoResponses)]
pub(crate) enum SvcproviderReadFails {
    /// svcprovider does not answer (`svcprovider_unavailable`), or its token is missing, open to others or another (`svcprovider_token`), or its own reason (`store_unavailable`)
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemBody),
}

/// svcprovider, for calls that change something.
#[derive(IntoResponses)]
pub(crate) enum SvcproviderWriteFails {
    /// svcprovider does not answer (`svcprovider_unavailable`), or its token is missing, open to others or another (`svcprovider_token`), or its own reason (`store_unavailable`); `outcome_unknown`: the answer was lost, look before you try again
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemBody),
}
