//! `update-function --wait`: rolls out one revision, as the leading bismuth-api does for all functions.
//!
//! ```text
//!  new slots ─► all have run ─► switch requests to them ─► a moment ─► release the old slots
//!                  │ one failed, too late, overtaken
//!                  └─► say so; requests still go to the old ones
//! ```
//!
//! A leading bismuth-api does the same at the same time. That is harmless: each step is a transaction
//! that checks what it builds on, and a step that was made already is not made again.

use std::time::Duration;

use bismuth_model::{Backend, ContainerState, FunctionId, FunctionRecord, Revision, RevisionFate};
use bismuth_registry::audit::DEPLOYMENT_GRACE;
use bismuth_registry::{Error as RegistryError, Registry};
use tokio::time::{Instant, sleep};

use crate::error::Error;

/// How soon a status is seen: less than a person notices.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Frontends hear of a switch within milliseconds; the same that bismuth-api gives them.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Brings the slots of a new revision into service, and takes those of the earlier ones away.
pub(crate) async fn complete(
    registry: &Registry,
    id: FunctionId,
    record: &FunctionRecord,
    slots: &[Backend],
) -> Result<(), Error> {
    // Pulling the image, then starting it.
    let bound = DEPLOYMENT_GRACE + Duration::from_millis(record.definition.startup_timeout_ms);
    let begun = Instant::now();
    while !have_run(registry, id, record, slots).await? {
        if begun.elapsed() > bound {
            let seconds = bound.as_secs();
            return Err(Error::RolloutTimeout {
                id,
                revision: record.revision,
                seconds,
            });
        }
        sleep(POLL_INTERVAL).await;
    }
    record_what_ran(registry, id, record.revision).await?;
    registry.switch_backends(id, slots).await?;
    let proven = RevisionFate::Proven;
    registry.record_fate(id, record.revision, proven).await?;
    sleep(SETTLE_TIME).await;
    for (slot, old) in registry.function_containers(id).await? {
        if old.revision >= record.revision {
            continue;
        }
        match registry.release_container(slot.ip, slot.container_id).await {
            // Done by somebody else, or switched back to.
            Ok(())
            | Err(RegistryError::ContainerUnknown { .. } | RegistryError::StillRouted { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Records that the earlier revisions have run, so that they can be gone back to: without a bismuth-api nobody has.
async fn record_what_ran(
    registry: &Registry,
    id: FunctionId,
    newest: Revision,
) -> Result<(), Error> {
    for (_, container) in registry.function_containers(id).await? {
        if container.revision < newest && container.status.state.has_run() {
            let proven = RevisionFate::Proven;
            registry.record_fate(id, container.revision, proven).await?;
        }
    }
    Ok(())
}

async fn have_run(
    registry: &Registry,
    id: FunctionId,
    record: &FunctionRecord,
    slots: &[Backend],
) -> Result<bool, Error> {
    let revision = record.revision;
    let now = registry.function(id).await?;
    if now.is_none_or(|function| function.record.revision != revision) {
        return Err(Error::RolloutOvertaken { id, revision });
    }
    let mut all = true;
    for (slot, container) in slots.iter().zip(registry.container_statuses(slots).await?) {
        let Some(container) = container else {
            return Err(Error::RolloutOvertaken { id, revision });
        };
        match container.status.state {
            ContainerState::Running | ContainerState::Paused | ContainerState::Stopped => {}
            ContainerState::Assigned | ContainerState::Pulling | ContainerState::Starting => {
                all = false
            }
            ContainerState::Failed => {
                let reason = container.status.reason;
                let reason = reason.unwrap_or_else(|| "its node gives no reason".to_owned());
                let fate = RevisionFate::Failed {
                    reason: reason.clone(),
                };
                registry.record_fate(id, revision, fate).await?;
                return Err(Error::RolloutFailed {
                    id,
                    revision,
                    container: slot.container_id,
                    node: slot.ip,
                    reason,
                });
            }
        }
    }
    Ok(all)
}
