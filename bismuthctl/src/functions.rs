//! `create-function`, `get-function`, `add-backend` and so on: functions and their backends.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bismuth_model::{
    Backend, ContainerId, ContainerRecord, FunctionDefinition, FunctionId, NodeFacts, Revision,
};
use bismuth_registry::{Error as RegistryError, Function};
use serde::Serialize;
use serde_json::json;

use crate::args::CreateFunction;
use crate::byte_size;
use crate::definition::build;
use crate::deploy::deployment;
use crate::error::Error;
use crate::output::{Output, or_dash, shorten, table, yes};
use crate::session::Session;

/// Functions read at a time.
const PAGE: usize = 500;
/// How a slot does whose node is not alive.
const NOT_ALIVE: &str = "Unknown";

pub(crate) async fn create(
    session: &Session,
    args: CreateFunction,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let definition = build(args.image, args.mode, args.fields)?;
    let id = args.id.unwrap_or_else(FunctionId::new_random);
    let created = session.registry.create_function(id, &definition, &[]).await;
    match created {
        Err(RegistryError::FunctionExists { .. }) if is_first(session, id, &definition).await? => {
            eprintln!("function {id} was created before, with this definition");
        }
        created => drop(created?),
    }
    output.answer(&json!({"id": id}), || format!("{id}\n"))
}

/// Whether a function was created with this definition, as far as that is kept.
async fn is_first(
    session: &Session,
    id: FunctionId,
    definition: &FunctionDefinition,
) -> Result<bool, Error> {
    let first = session.registry.revision(id, Revision::FIRST).await?;
    Ok(first.is_none_or(|first| first.definition == *definition))
}

pub(crate) async fn delete(session: &Session, id: FunctionId) -> Result<(), Error> {
    session.registry.delete_function(id).await?;
    eprintln!("function {id} is deleted");
    Ok(())
}

#[derive(Serialize)]
struct FunctionOutput {
    id: FunctionId,
    revision: Revision,
    created_ms: u64,
    updated_ms: u64,
    definition: FunctionDefinition,
    backends: Vec<SlotOutput>,
}

#[derive(Serialize)]
struct SlotOutput {
    backend: Backend,
    routed: bool,
    /// Absent where a slot is routed and assigned to nobody, which `consistency` repairs.
    #[serde(flatten)]
    record: Option<RecordOutput>,
}

#[derive(Serialize)]
struct RecordOutput {
    revision: Revision,
    #[serde(flatten)]
    status: bismuth_model::ContainerStatus,
    /// Beside `state`, the exact one.
    #[serde(rename = "status")]
    public: &'static str,
}

pub(crate) async fn get(
    session: &Session,
    id: FunctionId,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let function = known(session, id).await?;
    let slots = session.registry.function_containers(id).await?;
    let nodes = slots.iter().map(|(slot, _)| slot.ip);
    let alive = session.registry.facts_of(nodes).await?;
    let shown = show(function, slots, &alive);
    output.answer(&shown, || describe(&shown))
}

fn show(
    function: Function,
    slots: Vec<(Backend, ContainerRecord)>,
    alive: &BTreeMap<Ipv4Addr, NodeFacts>,
) -> FunctionOutput {
    let unassigned = function
        .backends
        .iter()
        .filter(|routed| !slots.iter().any(|(slot, _)| slot == *routed));
    let unassigned: Vec<SlotOutput> = unassigned
        .map(|slot| SlotOutput {
            backend: *slot,
            routed: true,
            record: None,
        })
        .collect();
    let shown = |(slot, record): (Backend, ContainerRecord)| SlotOutput {
        backend: slot,
        routed: function.backends.contains(&slot),
        record: Some(RecordOutput {
            revision: record.revision,
            public: if alive.contains_key(&slot.ip) {
                record.status.state.public_name()
            } else {
                NOT_ALIVE
            },
            status: record.status,
        }),
    };
    FunctionOutput {
        id: function.id,
        revision: function.record.revision,
        created_ms: function.record.created_ms,
        updated_ms: function.record.updated_ms,
        definition: function.record.definition.clone(),
        backends: slots.into_iter().map(shown).chain(unassigned).collect(),
    }
}

fn describe(shown: &FunctionOutput) -> String {
    let definition = &shown.definition;
    let routes: Vec<&str> = definition
        .routes
        .iter()
        .map(|route| route.hostname.as_str())
        .collect();
    let mut lines = vec![
        ("Id", shown.id.to_string()),
        ("Revision", shown.revision.to_string()),
        ("Image", definition.image.to_string()),
        ("Mode", definition.invoke_mode.to_string()),
        ("Cpu", definition.cpu.to_string()),
        ("Memory", byte_size::show(definition.memory)),
        ("Disk", byte_size::show(definition.disk)),
        (
            "Instances",
            format!(
                "{} to {}",
                definition.min_instances, definition.max_instances
            ),
        ),
        ("Concurrency", definition.concurrency.to_string()),
        ("Timeout", format!("{} ms", definition.timeout_ms)),
    ];
    lines.extend((!routes.is_empty()).then(|| ("Routes", routes.join(" "))));
    lines.extend(
        definition
            .env
            .iter()
            .map(|(name, value)| ("Env", format!("{name}={value}"))),
    );
    let mut text: String = lines
        .into_iter()
        .map(|(name, value)| format!("{name:<12} {value}\n"))
        .collect();
    if !shown.backends.is_empty() {
        text.push('\n');
        text.push_str(&slots_table(&shown.backends));
    }
    text
}

fn slots_table(slots: &[SlotOutput]) -> String {
    let row = |slot: &SlotOutput| {
        let record = slot.record.as_ref();
        // The exact state, which `public` is not, while the node is there to have one.
        let state = record.map(|record| match record.public {
            NOT_ALIVE => NOT_ALIVE.to_owned(),
            _ => record.status.state.to_string(),
        });
        let reason = record.and_then(|record| record.status.reason.as_deref());
        [
            slot.backend.container_id.to_string(),
            slot.backend.ip.to_string(),
            or_dash(record.map(|record| record.revision)),
            yes(slot.routed),
            state.unwrap_or("not assigned".to_owned()),
            shorten(reason.unwrap_or_default()),
        ]
    };
    let header = [
        "CONTAINER",
        "NODE",
        "REVISION",
        "ROUTED",
        "STATUS",
        "REASON",
    ];
    table(header, slots.iter().map(row))
}

#[derive(Serialize)]
struct FunctionSummary {
    id: FunctionId,
    revision: Revision,
    image: String,
    invoke_mode: String,
    routes: Vec<String>,
    backends: Vec<Backend>,
}

pub(crate) async fn list(session: &Session, output: &mut Output<'_>) -> Result<(), Error> {
    let (mut summaries, mut after) = (Vec::new(), None);
    loop {
        let page = session.registry.list_functions(after, PAGE).await?;
        for id in page.unreadable {
            eprintln!("function {id} cannot be read; `bismuthctl consistency` says why");
        }
        summaries.extend(page.functions.into_iter().map(summary));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    output.answer(&summaries, || {
        let row = |summary: &FunctionSummary| {
            [
                summary.id.to_string(),
                summary.revision.to_string(),
                summary.backends.len().to_string(),
                summary.image.clone(),
                summary.invoke_mode.clone(),
                summary.routes.join(" "),
            ]
        };
        let header = ["ID", "REVISION", "BACKENDS", "IMAGE", "MODE", "ROUTES"];
        table(header, summaries.iter().map(row))
    })
}

fn summary(function: Function) -> FunctionSummary {
    let definition = function.record.definition;
    FunctionSummary {
        id: function.id,
        revision: function.record.revision,
        image: definition.image.to_string(),
        invoke_mode: definition.invoke_mode.to_string(),
        routes: definition
            .routes
            .iter()
            .map(|route| route.hostname.as_str().to_owned())
            .collect(),
        backends: function.backends,
    }
}

pub(crate) async fn add_backend(
    session: &Session,
    id: FunctionId,
    ip: Ipv4Addr,
    force: bool,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    if !force {
        check_node(session, id, ip).await?;
    }
    let slot = session.registry.add_backend(id, ip).await?;
    output.answer(&slot, || format!("{}\n", slot.container_id))
}

/// Refuses a node that cannot run the function as it is. One that is not provisioned is refused by the registry.
async fn check_node(session: &Session, id: FunctionId, ip: Ipv4Addr) -> Result<(), Error> {
    let deployment = deployment(session, id).await?;
    let revision = session.registry.revision_to_add(&deployment).await?;
    let kept = session.registry.revision(id, revision).await?;
    let definition = kept.map_or(deployment.wanted.definition, |kept| kept.definition);
    let Some(node) = session.registry.node(ip).await? else {
        return Ok(());
    };
    let facts = node.facts.ok_or(Error::NodeNotAlive { ip })?;
    if f64::from(facts.cores) < definition.cpu || facts.memory < definition.memory {
        return Err(Error::NodeTooSmall {
            ip,
            cores: facts.cores,
            memory: facts.memory,
        });
    }
    Ok(())
}

pub(crate) async fn remove_backend(
    session: &Session,
    id: FunctionId,
    ip: Ipv4Addr,
    container: ContainerId,
) -> Result<(), Error> {
    let registry = &session.registry;
    let refusal = match registry.remove_backend(id, ip, container).await {
        Err(refusal @ RegistryError::BackendUnknown { .. }) => refusal,
        done => return Ok(done?),
    };
    // A slot of a revision that failed is assigned and was never routed to.
    match registry.container(ip, container).await? {
        Some(record) if record.function_id == id => {
            Ok(registry.release_container(ip, container).await?)
        }
        _ => Err(refusal.into()),
    }
}

async fn known(session: &Session, id: FunctionId) -> Result<Function, Error> {
    let function = session.registry.function(id).await?;
    function.ok_or_else(|| RegistryError::FunctionUnknown { id }.into())
}
