//! `Idempotency-Key` of `POST /function`: a create that is repeated with its key is one function.
//!
//! The function's id is made of the key, so nothing needs to be remembered, and every replica answers alike.

use bismuth_model::{FunctionDefinition, FunctionId, Revision};
use http::{HeaderMap, StatusCode};

use crate::problem::Problem;
use crate::state::AppState;

const HEADER: &str = "idempotency-key";
/// A UUID has 36 bytes; this leaves room for what is made of several names.
const MAX_BYTES: usize = 255;

/// The id that the call asks for, if it has a key.
pub(crate) fn function_id(headers: &HeaderMap) -> Result<Option<FunctionId>, Problem> {
    let malformed = |detail: &str| {
        let detail = format!("Idempotency-Key: {detail}");
        Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_malformed", detail)
    };
    let mut keys = headers.get_all(HEADER).iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    if keys.next().is_some() {
        return Err(malformed("there is more than one"));
    }
    let key = key.to_str();
    let key = key.map_err(|_| malformed("it is not visible ASCII"))?;
    if key.is_empty() || key.len() > MAX_BYTES {
        return Err(malformed(&format!("it has not 1 to {MAX_BYTES} bytes")));
    }
    Ok(Some(FunctionId::from_key(key)))
}

/// Whether the function that is there already was created by the same call: with this definition, as far as that is
/// kept.
pub(crate) async fn check_repeated(
    api: &AppState,
    id: FunctionId,
    definition: &FunctionDefinition,
) -> Result<(), Problem> {
    match api.registry.revision(id, Revision::FIRST).await? {
        Some(first) if first.definition != *definition => {
            let detail = format!(
                "Idempotency-Key: function {id} was created with this key and another definition"
            );
            Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                detail,
            ))
        }
        _ => Ok(()),
    }
}
