//! Parameters of paths and queries that several handlers take.

use axum::extract::Path;
use axum::extract::rejection::{PathRejection, QueryRejection};
use bismuth_model::FunctionId;
use http::StatusCode;

use crate::problem::Problem;

/// A malformed id names nothing, so it is not found.
pub(crate) fn function_id(
    path: Result<Path<String>, PathRejection>,
) -> Result<FunctionId, Problem> {
    let malformed =
        |detail: String| Problem::new(StatusCode::NOT_FOUND, "malformed_id", detail).field("id");
    let Path(text) = path.map_err(|rejection| malformed(rejection.body_text()))?;
    text.parse()
        .map_err(|error: bismuth_model::IdError| malformed(error.to_string()))
}

pub(crate) fn malformed_query(rejection: &QueryRejection) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "query_malformed",
        rejection.body_text(),
    )
}
