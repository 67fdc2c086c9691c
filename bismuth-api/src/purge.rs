//! `DELETE /function/{id}?purge=true`: deletes a function, and the data of its service group if no other function uses it.
//!
//! ```text
//!  svcprovider there? ─► function deleted ─► who else is in its group? ─┬─ nobody ─► data deleted
//!    │ no: nothing is done                                             └─ others ─► said, data stays
//! ```
//!
//! The function goes first: its routes are gone at once, and of two that are deleted at the same time, the later look finds
//! nobody. The data goes at once and not when the containers have drained: nobody here can see when that is, and until then the
//! group may belong to a new function, whose data it would be.

use std::time::Duration;

use bismuth_model::{FunctionId, ServiceGroup};
use bismuth_operator::Purged;
use http::StatusCode;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::openapi::schemas::{self, Uuid};
use crate::problem::Problem;
use crate::state::AppState;

/// Reads every function there is.
const GROUP_USERS_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of the data of a deleted function
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PurgedData {
    /// The group, with `purge` only
    #[schema(value_type = schemas::Group, required = false)]
    group: ServiceGroup,
    /// How many were deleted; null where others use the group
    #[schema(value_type = Option<schemas::Purged>, required = false)]
    purged: Option<Purged>,
    /// Functions that use the group, or whose records cannot be read
    #[schema(value_type = Vec<Uuid>, required = false)]
    used_by: Vec<FunctionId>,
}

/// Goes on to the end when the client goes away: a function without its data is half a deletion.
pub(crate) async fn delete(api: AppState, id: FunctionId) -> Result<PurgedData, Problem> {
    let work = tokio::spawn(delete_and_purge(api, id));
    work.await.unwrap_or_else(|error| {
        let detail = format!("delete function {id}: {error}");
        Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            detail,
        ))
    })
}

async fn delete_and_purge(api: AppState, id: FunctionId) -> Result<PurgedData, Problem> {
    let act = format!("read function {id}");
    let function = api.read(&act, api.function(id)).await?;
    let group = function.record.definition.service_group(id);
    api.svcprovider.probe().await?;
    let act = format!("delete function {id}");
    let deleting = async { Ok(api.registry.delete_function(id).await?) };
    api.write(&act, deleting).await?;
    tracing::info!(function = %id, "deleted");
    match purge(&api, &group).await {
        Ok((purged, used_by)) => {
            tracing::info!(function = %id, %group, purged = purged.is_some(), "its data");
            Ok(PurgedData {
                group,
                purged,
                used_by,
            })
        }
        // The same call would not find the function again.
        Err(problem) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_purged",
            format!(
                "function {id} is deleted, but its data in group {group} is not (`bismuthctl group purge {group}` deletes it): {}",
                problem.detail
            ),
        )),
    }
}

async fn purge(
    api: &AppState,
    group: &ServiceGroup,
) -> Result<(Option<Purged>, Vec<FunctionId>), Problem> {
    let users = match timeout(GROUP_USERS_TIMEOUT, api.registry.group_users(group)).await {
        Ok(users) => users?,
        Err(_) => {
            return Err(Problem::unavailable(
                "find who else is in the group: ZooKeeper did not answer",
            ));
        }
    };
    if users.is_empty() {
        return Ok((Some(api.svcprovider.purge(group).await?), Vec::new()));
    }
    Ok((None, [users.functions, users.unreadable].concat()))
}
