//! `delete-function --purge`: deletes a function, and its group's data if no other function uses that group.
//!
//! ```text
//!  svcprovider there? ─► function deleted ─► who else is in its group? ─┬─ nobody ─► data deleted
//!    │ no: nothing is done                                             └─ others ─► said, data stays
//! ```
//!
//! The function goes first: its routes are gone at once, and of two that are deleted at the same time, the later look finds
//! nobody. The data goes at once and not when the containers have drained: nobody here can see when that is, and until then the
//! group may belong to a new function, whose data it would be. What a request that still runs writes meanwhile stays, and is said.

use bismuth_base::chain;
use bismuth_model::{FunctionId, ServiceGroup};
use bismuth_operator::{OperatorClient, Purged};
use bismuth_registry::Error as RegistryError;
use serde::Serialize;

use super::surface;
use crate::args::Services;
use crate::error::Error;
use crate::output::Output;
use crate::session::Session;

#[derive(Serialize)]
struct PurgeOutput {
    id: FunctionId,
    group: ServiceGroup,
    /// Null where others use the group.
    purged: Option<Purged>,
    /// Functions that work, or may work, on the same data.
    used_by: Vec<FunctionId>,
}

pub(crate) async fn delete_and_purge(
    session: &Session,
    id: FunctionId,
    services: &Services,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let registry = &session.registry;
    let surface = surface(services)?;
    let function = registry.function(id).await?;
    let function = function.ok_or(RegistryError::FunctionUnknown { id })?;
    let group = function.record.definition.service_group(id);
    surface.probe().await?;
    let busy = !registry.function_containers(id).await?.is_empty();
    registry.delete_function(id).await?;
    eprintln!("function {id} is deleted");
    let purged = purge(session, &surface, &group).await;
    let (purged, used_by) = purged.map_err(|error| Error::NotPurged {
        id,
        group: group.clone(),
        reason: chain(&error),
    })?;
    match &purged {
        Some(purged) => {
            eprintln!(
                "{} keys, {} blobs and {} secrets of group {group} are deleted",
                purged.kv, purged.blobs, purged.secrets
            );
            if busy {
                eprintln!(
                    "what requests that still run in its containers write, stays: `bismuthctl group show {group}` tells"
                );
            }
        }
        None => {
            let others: Vec<String> = used_by.iter().map(ToString::to_string).collect();
            eprintln!(
                "its data stays: group {group} is used by {}",
                others.join(", ")
            );
        }
    }
    let deleted = PurgeOutput {
        id,
        group,
        purged,
        used_by,
    };
    output.answer(&deleted, String::new)
}

async fn purge(
    session: &Session,
    surface: &OperatorClient,
    group: &ServiceGroup,
) -> Result<(Option<Purged>, Vec<FunctionId>), Error> {
    let users = session.registry.group_users(group).await?;
    if users.is_empty() {
        return Ok((Some(surface.purge(group).await?), Vec::new()));
    }
    for id in &users.unreadable {
        eprintln!(
            "function {id} cannot be read, and may use group {group}; `bismuthctl consistency` says why"
        );
    }
    Ok((None, [users.functions, users.unreadable].concat()))
}
