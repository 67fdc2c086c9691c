//! Version 1 of the stored records. Frozen: these bytes are in ZooKeeper on somebody's machines.
//!
//! A change to the model changes the conversions here and never the structs. What these structs cannot say gets a
//! version 2 beside them; this one stays readable for ever.

use std::collections::BTreeMap;

use bismuth_model::{
    Affinity, ContainerRecord, ContainerState, ContainerStatus, Egress, FunctionDefinition,
    FunctionId, FunctionRecord, Hostname, InvokeMode, NodeFacts, Readiness, Repo, Revision, Route,
    ServiceQuotas,
};

use super::FieldFault;
use super::wire::{Decode, Encode};

/// The byte in front of a record of this version.
pub(super) const VERSION: u8 = 1;

#[derive(Encode, Decode)]
pub(super) struct Function {
    revision: u64,
    created_ms: u64,
    updated_ms: u64,
    definition: Definition,
}

#[derive(Encode, Decode)]
struct Definition {
    image: String,
    invoke_mode: Mode,
    cpu: f64,
    memory: u64,
    disk: u64,
    env: BTreeMap<String, String>,
    routes: Vec<String>,
    max_instances: u32,
    min_instances: u32,
    concurrency: u32,
    timeout_ms: u64,
    idle_timeout_ms: u64,
    startup_timeout_ms: u64,
    idle_pause_ms: u64,
    idle_stop_ms: u64,
    repo: Option<(String, String)>,
    svc_group_id: Option<String>,
    svc_quotas: Quotas,
    user: Option<String>,
    egress: EgressTo,
    affinity: Option<Sticky>,
    readiness_path: Option<String>,
}

#[derive(Encode, Decode)]
enum Mode {
    Server(Vec<String>, u16),
    Executable(Vec<String>),
}

#[derive(Encode, Decode)]
struct Quotas {
    kv_bytes: Option<u64>,
    kv_keys: Option<u64>,
    blob_bytes: Option<u64>,
    blob_count: Option<u64>,
    requests_per_second: Option<u64>,
}

#[derive(Encode, Decode)]
enum EgressTo {
    Nowhere,
}

#[derive(Encode, Decode)]
pub(super) enum Sticky {
    Header(String),
    Cookie(String),
}

#[derive(Encode, Decode)]
pub(super) struct Container {
    function_id: [u8; 16],
    revision: u64,
    state: State,
    reason: Option<String>,
    ip: Option<[u8; 4]>,
    pid: Option<u32>,
    created_ms: u64,
    started_ms: Option<u64>,
    changed_ms: u64,
}

#[derive(Encode, Decode)]
enum State {
    Assigned,
    Pulling,
    Starting,
    Running,
    Paused,
    Stopped,
    Failed,
}

#[derive(Encode, Decode)]
pub(super) struct Facts {
    cores: u32,
    memory: u64,
    versions: BTreeMap<String, String>,
    epoch: String,
}

#[derive(Encode, Decode)]
pub(super) struct RouteTarget {
    function_id: [u8; 16],
}

impl From<&FunctionRecord> for Function {
    fn from(record: &FunctionRecord) -> Self {
        Self {
            revision: record.revision.0,
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            definition: Definition::from(&record.definition),
        }
    }
}

impl TryFrom<Function> for FunctionRecord {
    type Error = FieldFault;

    fn try_from(wire: Function) -> Result<Self, FieldFault> {
        Ok(Self {
            revision: Revision(wire.revision),
            definition: wire.definition.try_into()?,
            created_ms: wire.created_ms,
            updated_ms: wire.updated_ms,
        })
    }
}

impl From<&FunctionDefinition> for Definition {
    fn from(definition: &FunctionDefinition) -> Self {
        // Taken apart by name, so that a field added to the model cannot be forgotten here.
        let FunctionDefinition {
            image,
            invoke_mode,
            cpu,
            memory,
            disk,
            env,
            routes,
            max_instances,
            min_instances,
            concurrency,
            timeout_ms,
            idle_timeout_ms,
            startup_timeout_ms,
            idle_pause_ms,
            idle_stop_ms,
            repo,
            svc_group_id,
            svc_quotas,
            // What this version cannot say: a record that has any is written in version 2.
            secrets: _,
            user,
            egress,
            affinity,
            readiness,
        } = definition;
        Self {
            image: image.to_string(),
            invoke_mode: invoke_mode.into(),
            cpu: *cpu,
            memory: *memory,
            disk: *disk,
            env: env.clone(),
            routes: routes
                .iter()
                .map(|route| route.hostname.as_str().to_owned())
                .collect(),
            max_instances: *max_instances,
            min_instances: *min_instances,
            concurrency: *concurrency,
            timeout_ms: *timeout_ms,
            idle_timeout_ms: *idle_timeout_ms,
            startup_timeout_ms: *startup_timeout_ms,
            idle_pause_ms: *idle_pause_ms,
            idle_stop_ms: *idle_stop_ms,
            repo: repo
                .as_ref()
                .map(|Repo(url, branch)| (url.clone(), branch.clone())),
            svc_group_id: svc_group_id.clone(),
            svc_quotas: svc_quotas.into(),
            user: user.clone(),
            egress: match egress {
                Egress::None => EgressTo::Nowhere,
            },
            affinity: affinity.as_ref().map(Sticky::from),
            readiness_path: readiness.as_ref().map(|Readiness { path }| path.clone()),
        }
    }
}

impl TryFrom<Definition> for FunctionDefinition {
    type Error = FieldFault;

    /// Checks what the types of the model promise and not the limits of today: a record that was within the limits
    /// when it was written stays readable.
    fn try_from(wire: Definition) -> Result<Self, FieldFault> {
        if !wire.cpu.is_finite() {
            return Err(FieldFault::new(
                "definition.cpu",
                "it is not a finite number",
            ));
        }
        let invoke_mode = InvokeMode::from(wire.invoke_mode);
        invoke_mode
            .validate()
            .map_err(|error| FieldFault::new("definition.invoke_mode", error))?;
        let image = wire
            .image
            .parse()
            .map_err(|error| FieldFault::new("definition.image", error))?;
        let routes = wire
            .routes
            .iter()
            .map(|name| route(name))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            image,
            invoke_mode,
            cpu: wire.cpu,
            memory: wire.memory,
            disk: wire.disk,
            env: wire.env,
            routes,
            max_instances: wire.max_instances,
            min_instances: wire.min_instances,
            concurrency: wire.concurrency,
            timeout_ms: wire.timeout_ms,
            idle_timeout_ms: wire.idle_timeout_ms,
            startup_timeout_ms: wire.startup_timeout_ms,
            idle_pause_ms: wire.idle_pause_ms,
            idle_stop_ms: wire.idle_stop_ms,
            repo: wire.repo.map(|(url, branch)| Repo(url, branch)),
            svc_group_id: wire.svc_group_id,
            svc_quotas: wire.svc_quotas.into(),
            secrets: Vec::new(),
            user: wire.user,
            egress: match wire.egress {
                EgressTo::Nowhere => Egress::None,
            },
            affinity: wire.affinity.map(Affinity::from),
            readiness: wire.readiness_path.map(|path| Readiness { path }),
        })
    }
}

fn route(name: &str) -> Result<Route, FieldFault> {
    let hostname =
        Hostname::parse(name).map_err(|error| FieldFault::new("definition.routes", error))?;
    Ok(Route { hostname })
}

impl From<&InvokeMode> for Mode {
    fn from(mode: &InvokeMode) -> Self {
        match mode {
            InvokeMode::Server(command, port) => Self::Server(command.clone(), *port),
            InvokeMode::Executable(command) => Self::Executable(command.clone()),
        }
    }
}

impl From<Mode> for InvokeMode {
    fn from(wire: Mode) -> Self {
        match wire {
            Mode::Server(command, port) => Self::Server(command, port),
            Mode::Executable(command) => Self::Executable(command),
        }
    }
}

impl From<&ServiceQuotas> for Quotas {
    fn from(quotas: &ServiceQuotas) -> Self {
        let ServiceQuotas {
            kv_bytes,
            kv_keys,
            blob_bytes,
            blob_count,
            requests_per_second,
        } = *quotas;
        Self {
            kv_bytes,
            kv_keys,
            blob_bytes,
            blob_count,
            requests_per_second,
        }
    }
}

impl From<Quotas> for ServiceQuotas {
    fn from(wire: Quotas) -> Self {
        let Quotas {
            kv_bytes,
            kv_keys,
            blob_bytes,
            blob_count,
            requests_per_second,
        } = wire;
        Self {
            kv_bytes,
            kv_keys,
            blob_bytes,
            blob_count,
            requests_per_second,
        }
    }
}

impl From<&Affinity> for Sticky {
    fn from(affinity: &Affinity) -> Self {
        match affinity {
            Affinity::Header(name) => Self::Header(name.clone()),
            Affinity::Cookie(name) => Self::Cookie(name.clone()),
        }
    }
}

impl From<Sticky> for Affinity {
    fn from(wire: Sticky) -> Self {
        match wire {
            Sticky::Header(name) => Self::Header(name),
            Sticky::Cookie(name) => Self::Cookie(name),
        }
    }
}

impl From<&ContainerRecord> for Container {
    fn from(record: &ContainerRecord) -> Self {
        let ContainerRecord {
            function_id,
            revision,
            status,
        } = record;
        let ContainerStatus {
            state,
            reason,
            ip,
            pid,
            created_ms,
            started_ms,
            changed_ms,
        } = status;
        Self {
            function_id: *function_id.as_bytes(),
            revision: revision.0,
            state: (*state).into(),
            reason: reason.clone(),
            ip: ip.map(|ip| ip.octets()),
            pid: *pid,
            created_ms: *created_ms,
            started_ms: *started_ms,
            changed_ms: *changed_ms,
        }
    }
}

impl From<Container> for ContainerRecord {
    fn from(wire: Container) -> Self {
        Self {
            function_id: FunctionId::from_bytes(wire.function_id),
            revision: Revision(wire.revision),
            status: ContainerStatus {
                state: wire.state.into(),
                reason: wire.reason,
                ip: wire.ip.map(Into::into),
                pid: wire.pid,
                created_ms: wire.created_ms,
                started_ms: wire.started_ms,
                changed_ms: wire.changed_ms,
            },
        }
    }
}

impl From<ContainerState> for State {
    fn from(state: ContainerState) -> Self {
        match state {
            ContainerState::Assigned => Self::Assigned,
            ContainerState::Pulling => Self::Pulling,
            ContainerState::Starting => Self::Starting,
            ContainerState::Running => Self::Running,
            ContainerState::Paused => Self::Paused,
            ContainerState::Stopped => Self::Stopped,
            ContainerState::Failed => Self::Failed,
        }
    }
}

impl From<State> for ContainerState {
    fn from(wire: State) -> Self {
        match wire {
            State::Assigned => Self::Assigned,
            State::Pulling => Self::Pulling,
            State::Starting => Self::Starting,
            State::Running => Self::Running,
            State::Paused => Self::Paused,
            State::Stopped => Self::Stopped,
            State::Failed => Self::Failed,
        }
    }
}

impl From<&NodeFacts> for Facts {
    fn from(facts: &NodeFacts) -> Self {
        let NodeFacts {
            cores,
            memory,
            versions,
            epoch,
        } = facts;
        Self {
            cores: *cores,
            memory: *memory,
            versions: versions.clone(),
            epoch: epoch.clone(),
        }
    }
}

impl From<Facts> for NodeFacts {
    fn from(wire: Facts) -> Self {
        let Facts {
            cores,
            memory,
            versions,
            epoch,
        } = wire;
        Self {
            cores,
            memory,
            versions,
            epoch,
        }
    }
}

impl From<&FunctionId> for RouteTarget {
    fn from(id: &FunctionId) -> Self {
        Self {
            function_id: *id.as_bytes(),
        }
    }
}

impl From<RouteTarget> for FunctionId {
    fn from(wire: RouteTarget) -> Self {
        Self::from_bytes(wire.function_id)
    }
}
