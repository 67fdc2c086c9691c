//! `update-function`, `rollback` and `revisions`: deploys another definition of a function, or an earlier one again.

use bismuth_model::{Backend, ContainerId, FunctionDefinition, FunctionId, Revision, RevisionFate};
use bismuth_registry::{Deployment, Error as RegistryError};
use serde::Serialize;

use crate::args::{Rollback, UpdateFunction};
use crate::definition::change;
use crate::error::Error;
use crate::output::{Output, shorten, table, yes};
use crate::rollout;
use crate::session::Session;

#[derive(Serialize)]
struct UpdatedOutput {
    id: FunctionId,
    revision: Revision,
    backends: Vec<Backend>,
}

pub(crate) async fn update(
    session: &Session,
    args: UpdateFunction,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let (current, wait) = (deployment(session, args.id).await?, args.wait);
    let definition = change(base(session, &current).await?, args)?;
    deploy(session, &current, &definition, wait, output).await
}

/// Deploys the definition of a kept revision again.
pub(crate) async fn roll_back(
    session: &Session,
    args: Rollback,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let (registry, id) = (&session.registry, args.id);
    let current = deployment(session, id).await?;
    let target = match args.revision {
        Some(revision) => Some(revision),
        None => registry.rollback_target(&current).await?,
    };
    let target = target.ok_or(Error::NoEarlierRevision { id })?;
    let kept = registry.revision(id, target).await?;
    let kept = kept.ok_or(Error::RevisionUnknown {
        id,
        revision: target,
    })?;
    eprintln!("back to the definition of revision {target}");
    deploy(session, &current, &kept.definition, args.wait, output).await
}

async fn deploy(
    session: &Session,
    current: &Deployment,
    definition: &FunctionDefinition,
    wait: bool,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let (registry, id) = (&session.registry, current.id);
    // As many as serve it now, where they are now; placing is bismuth-api's.
    let slots: Vec<Backend> = current
        .backends()
        .iter()
        .map(|slot| Backend {
            ip: slot.ip,
            container_id: ContainerId::new_random(),
        })
        .collect();
    let record = registry
        .replace_definition(id, definition, current.version(), &slots)
        .await?;
    if slots.is_empty() {
        eprintln!(
            "the function has no backends; `bismuthctl add-backend` adds one of the new revision"
        );
    } else if wait {
        rollout::complete(registry, id, &record, &slots).await?;
    } else {
        eprintln!(
            "bismuth-api switches requests to the new revision once it runs (without it, use --wait)"
        );
    }
    let revision = record.revision;
    output.answer(
        &UpdatedOutput {
            id,
            revision,
            backends: slots,
        },
        || format!("{revision}\n"),
    )
}

#[derive(Serialize)]
struct RevisionOutput {
    revision: Revision,
    image: String,
    created_ms: u64,
    #[serde(flatten)]
    fate: FateOutput,
    wanted: bool,
    serving: bool,
}

#[derive(Serialize)]
struct FateOutput {
    fate: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Shows the revisions that can be gone back to, newest first.
pub(crate) async fn revisions(
    session: &Session,
    id: FunctionId,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let current = deployment(session, id).await?;
    let kept = session.registry.kept_revisions(&current).await?;
    let groups = &current.serving.groups;
    let shown = kept
        .into_iter()
        .rev()
        .map(|(revision, record)| RevisionOutput {
            revision,
            image: record.definition.image.to_string(),
            created_ms: record.created_ms,
            fate: fate(record.fate),
            wanted: revision == current.wanted.revision,
            serving: groups.iter().any(|group| group.revision == revision),
        });
    let shown: Vec<RevisionOutput> = shown.collect();
    output.answer(&shown, || {
        let row = |revision: &RevisionOutput| {
            let fate = &revision.fate;
            [
                revision.revision.to_string(),
                yes(revision.serving),
                fate.fate.to_owned(),
                revision.image.clone(),
                shorten(fate.reason.as_deref().unwrap_or_default()),
            ]
        };
        let header = ["REVISION", "SERVING", "FATE", "IMAGE", "REASON"];
        table(header, shown.iter().map(row))
    })
}

fn fate(fate: RevisionFate) -> FateOutput {
    let (fate, reason) = match fate {
        RevisionFate::Pending => ("pending", None),
        RevisionFate::Proven => ("proven", None),
        RevisionFate::Failed { reason } => ("failed", Some(reason)),
    };
    FateOutput { fate, reason }
}

pub(crate) async fn deployment(session: &Session, id: FunctionId) -> Result<Deployment, Error> {
    let deployment = session.registry.deployment(id).await?;
    deployment.ok_or_else(|| RegistryError::FunctionUnknown { id }.into())
}

/// The definition that changes are made to: the newest, unless it failed; then what serves.
async fn base(session: &Session, current: &Deployment) -> Result<FunctionDefinition, Error> {
    let (registry, id) = (&session.registry, current.id);
    let newest = current.wanted.revision;
    let wanted = current.wanted.definition.clone();
    let Some(serving) = current
        .serving
        .revision()
        .filter(|serving| *serving != newest)
    else {
        return Ok(wanted);
    };
    let fate = registry
        .revision(id, newest)
        .await?
        .map(|newest| newest.fate);
    if !matches!(fate, Some(RevisionFate::Failed { .. })) {
        return Ok(wanted);
    }
    let Some(kept) = registry.revision(id, serving).await? else {
        return Ok(wanted);
    };
    eprintln!("revision {newest} failed: the changes are made to revision {serving}, which serves");
    Ok(kept.definition)
}
