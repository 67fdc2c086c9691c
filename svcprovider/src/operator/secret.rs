//! Handlers of `/group/{group}/secret`: operators write secrets here, functions read them elsewhere.

use bismuth_model::ServiceGroup;
use bismuth_store::Key;
use bismuth_store::secrets::{MAX_VALUE_BYTES, SecretError};
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use zeroize::Zeroizing;

use super::{OperatorApi, only};
use crate::http::memory::RequestBudget;
use crate::http::params::Params;
use crate::http::problems::Refusal;
use crate::http::{HandlerResult, body, coding, listing, percent};

/// `name` is what follows `/secret/`, still encoded.
pub(super) async fn answer(
    operator: &OperatorApi,
    head: &Parts,
    group: &ServiceGroup,
    name: &str,
    body: Incoming,
) -> HandlerResult {
    Params::parse(head.uri.query(), &[])?;
    coding::identity(&head.headers)?;
    let (secrets, group) = (&operator.secrets, group.as_str());
    if name.is_empty() {
        only(head, "GET, HEAD")?;
        let listed = secrets.list(group).await;
        let listed = listed.map_err(super::secrets_failed)?;
        let listed: Vec<_> = listed
            .iter()
            .map(|s| json!({ "name": s.name, "version": s.version, "modified_ms": s.modified_ms }))
            .collect();
        return listing::json(&json!({ "secrets": listed }));
    }
    if let Some(name) = name.strip_suffix("/rotate")
        && head.method == Method::POST
    {
        let (name, value) = (percent::key(name)?, value(operator, body).await?);
        let version = secrets.rotate(group, &name, &value).await;
        let version = version.map_err(|error| refusal(error, &name))?;
        return listing::json(&json!({ "name": name.as_str(), "version": version }));
    }
    only(head, "PUT, DELETE, and POST of /rotate")?;
    let name = percent::key(name)?;
    if head.method == Method::DELETE {
        let deleted = secrets.delete(group, &name).await;
        deleted.map_err(|error| refusal(error, &name))?;
        return listing::json(&json!({ "name": name.as_str() }));
    }
    let value = value(operator, body).await?;
    let set = secrets.set(group, &name, &value).await;
    let set = set.map_err(|error| refusal(error, &name))?;
    let mut response = listing::json(&json!({ "name": name.as_str(), "version": set.version }))?;
    if set.created {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

async fn value(operator: &OperatorApi, body: Incoming) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let budget = RequestBudget {
        group: None,
        process: &operator.app.memory,
    };
    let bytes = body::collect(budget, body, MAX_VALUE_BYTES).await?;
    if bytes.is_empty() {
        let detail = "a secret has at least one byte";
        let status = StatusCode::BAD_REQUEST;
        return Err(Refusal::new(status, "empty_secret", detail));
    }
    Ok(Zeroizing::new(bytes.to_vec()))
}

fn refusal(error: SecretError, name: &Key) -> Refusal {
    match error {
        SecretError::NotFound => {
            let detail = format!("there is no secret {:?} in the group", name.as_str());
            Refusal::new(StatusCode::NOT_FOUND, "unknown_secret", detail)
        }
        error => super::secrets_failed(error),
    }
}
