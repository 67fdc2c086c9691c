//! Starts containers, tears them down, and adopts those that run.
//!
//! ```text
//!  start:    image ─► ids ─► namespaces ─► service socket ─► root filesystem ─► user ─► log ─► task ─► start ─► answers?
//!  teardown: task ◄──────────────────────────────────────────────────────────────────────────────────────────────────┘
//!              └─► service socket ─► log ─► root filesystem ─► namespaces ─► cgroup       (each repeatable, all tried)
//!  adopt:    saved process alive? namespaces pinned? root mounted? ─► log ─► answers
//! ```
//!
//! A start is a chain of states, see `start.rs`. One that fails half-way undoes what it did by `teardown`, which is written so that it can be run on
//! anything: a container that never was, one that is half made, one that a crashed process left.

mod adopt;
mod attempts;
mod cgroup;
mod error;
mod init_ready;
mod inject;
mod readiness;
mod runtime;
mod sandbox;
mod server_ready;
mod spec_input;
mod start;
mod teardown;
#[cfg(test)]
mod tests;
mod user;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bismuth_containerd::images::Images;
use bismuth_containerd::tasks::Tasks;
use bismuth_handover::Attachment;
use bismuth_model::{ContainerId, FunctionDefinition, FunctionId, InvokeMode};
use bismuth_sandbox::ids::{IdAllocator, IdPool, IdRange};
use bismuth_sandbox::process::WatchedProcess;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use error::LaunchError;
pub use runtime::WantedRuntime;

use super::program::Program;
use super::slot::{ContainerEndpoint, ExecTarget, Slot, Target};
use super::state_dir::{SavedRun, SavedSlot, StateDir};
use crate::logs::copier::StderrFifo;
use crate::logs::rotate::Limits;
use crate::logs::thread::LogThread;
use crate::svcprovider::{SecretEnv, SecretSource, ServiceSockets, Token};
use runtime::Runtime;
use start::Container;
use user::User;

/// How long the exit of a process that has ended may take to be known to its shim.
const EXIT_BOUND: Duration = Duration::from_secs(5);
/// Containers being made at a time: making one is work for processors, and a hundred at once only
/// make each other late. Waiting for a program to answer does not count.
const STARTS_PER_CORE: usize = 4;
/// Names us as the owner of a container among others in the namespace.
const OWNER_LABEL: &str = "bismuth.node";

/// How containers are made on this node.
#[derive(Clone, Debug)]
pub struct LaunchConfig {
    /// The static bismuth-init on the host.
    pub init: PathBuf,
    pub runtime: WantedRuntime,
    /// Whether memory limits cover swap too, see [`bismuth_containerd::spec::SpecInput::limit_swap`].
    pub limit_swap: bool,
    pub log_limits: Limits,
    /// This node's name, kept as a label of its containers.
    pub node: String,
    /// Where secrets that definitions ask for come from.
    pub secrets: SecretSource,
}

/// How one start of a container is done.
#[derive(Clone, Copy, Debug)]
pub struct StartOptions<'a> {
    /// When the slot was assigned, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Whether this proves a new revision: then a tag is asked for anew.
    pub deployment: bool,
    /// Ends the start early.
    pub cancelled: &'a CancellationToken,
}

/// Everything that starting and stopping needs. One per node.
pub struct Launcher {
    config: LaunchConfig,
    tasks: Arc<dyn Tasks>,
    images: Arc<dyn Images>,
    state: Arc<StateDir>,
    logs: LogThread,
    service_sockets: ServiceSockets,
    ids: Mutex<IdAllocator<FunctionId>>,
    start_permits: Arc<Semaphore>,
    runtime: Runtime,
}

/// A started container, in the hands of its driver.
#[derive(Debug)]
pub struct RunningContainer {
    /// What requests need.
    pub endpoint: Arc<ContainerEndpoint>,
    /// Its process; readable when it has ended.
    pub process: WatchedProcess,
    /// When it was started, milliseconds since the Unix epoch.
    pub started_ms: u64,
    container: Container,
}

/// Runs what blocks for more than a moment where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LaunchError> + Send + 'static,
) -> Result<T, LaunchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_panicked) => Err(LaunchError::Internal),
    }
}

impl Launcher {
    /// A launcher that reserves the id ranges which saved containers already use.
    pub fn new(
        config: LaunchConfig,
        tasks: Arc<dyn Tasks>,
        images: Arc<dyn Images>,
        state: Arc<StateDir>,
        logs: LogThread,
        service_sockets: ServiceSockets,
        pool: IdPool,
    ) -> Self {
        let start_permits = STARTS_PER_CORE * bismuth_daemon::cores::available();
        Self {
            runtime: Runtime::new(config.runtime.clone()),
            config,
            tasks,
            images,
            state,
            logs,
            service_sockets,
            ids: Mutex::new(IdAllocator::new(pool)),
            start_permits: Arc::new(Semaphore::new(start_permits)),
        }
    }

    /// The containers side of containerd.
    pub fn tasks(&self) -> &Arc<dyn Tasks> {
        &self.tasks
    }

    /// The OCI runtime that a container would be started with now.
    pub async fn runtime(&self) -> bismuth_containerd::Result<String> {
        let server = self.tasks.server_process().await?;
        Ok(self.runtime.binary_for(server.pid))
    }

    pub fn state(&self) -> &Arc<StateDir> {
        &self.state
    }

    /// Says that a container which an earlier process started has a service socket. Do so for each before svcprovider
    /// is spoken to: it lets go of what nobody names.
    pub fn recover_service_socket(&self, id: ContainerId, saved: &SavedSlot) {
        let Some(run) = &saved.run else {
            return;
        };
        if let Some(token) = Token::in_environment(&run.program.env) {
            let attachment = attachment(id, saved.function_id, &saved.definition, &token);
            let dir = self.state.container_dir(id);
            self.service_sockets.recover(attachment, dir);
        }
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, IdAllocator<FunctionId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves the range that a container of an earlier process uses. A conflict is the fault of what was saved:
    /// the container keeps running as it is, and its function gets another range at its next start.
    pub fn reserve_ids(&self, function: FunctionId, range: IdRange) {
        if let Err(error) = self.ids().reserve(function, range) {
            warn!(%function, %error, "cannot keep the user ids of a function");
        }
    }

    /// Gives the range of a function back, once it has no container here.
    pub fn release_ids(&self, function: FunctionId) {
        self.ids().release(&function);
    }

    /// Saves a slot, and its process if it was started.
    pub async fn save(
        &self,
        slot: &Slot,
        created_ms: u64,
        run: Option<SavedRun>,
    ) -> Result<(), LaunchError> {
        let range = self
            .ids()
            .allocate(slot.function_id)
            .map_err(LaunchError::Ids)?;
        let saved = SavedSlot {
            function_id: slot.function_id,
            revision: slot.revision,
            definition: Arc::clone(&slot.definition),
            id_range_start: range.host_start,
            created_ms,
            run,
        };
        let (state, id) = (Arc::clone(&self.state), slot.container_id);
        blocking(move || Ok(state.save_slot(id, &saved)?)).await
    }

    /// Saves that a started container has answered.
    pub async fn save_proven(&self, id: ContainerId) -> Result<(), LaunchError> {
        let state = Arc::clone(&self.state);
        blocking(move || {
            if let Some(mut saved) = state.load_slot(id)?
                && let Some(run) = &mut saved.run
            {
                run.proven = true;
                state.save_slot(id, &saved)?;
            }
            Ok(())
        })
        .await
    }

    /// The directory that is mounted for the socket of bismuth-init.
    fn run_dir(&self, id: ContainerId) -> PathBuf {
        self.state.container_dir(id).join(sandbox::RUN_DIR)
    }

    fn target(
        &self,
        slot: &Slot,
        program: Program,
        user: &User,
        stderr: StderrFifo,
        secrets: Option<SecretEnv>,
    ) -> Target {
        match &slot.definition.invoke_mode {
            InvokeMode::Server(_, port) => Target::Server { port: *port },
            InvokeMode::Executable(_) => Target::Exec(Box::new(ExecTarget {
                socket: init_socket(&self.run_dir(slot.container_id)),
                program,
                user: (user.uid, user.gid),
                groups: user.groups.clone(),
                stderr,
                secrets,
            })),
        }
    }

    /// The ids of the containers that this node has in containerd.
    pub async fn in_containerd(&self) -> bismuth_containerd::Result<Vec<ContainerId>> {
        let containers = self.tasks.list_containers().await?;
        let ours = containers
            .iter()
            .filter(|c| c.labels.get(OWNER_LABEL) == Some(&self.config.node));
        Ok(ours.filter_map(|c| c.id.parse().ok()).collect())
    }
}

impl RunningContainer {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns when its process has ended. Cancel safe.
    pub async fn ended(&self) {
        self.process.ended().await;
    }

    /// Takes down whatever there is of it, as [`Launcher::teardown`] does.
    pub async fn teardown(self) {
        let container = self.container;
        // Their descriptors keep the namespaces alive.
        drop((self.endpoint, self.process));
        container.teardown().await;
    }
}

/// Whom the service socket of a container belongs to.
fn attachment(
    container: ContainerId,
    function: FunctionId,
    definition: &FunctionDefinition,
    token: &Token,
) -> Attachment {
    Attachment {
        container,
        function,
        group: definition.service_group(function),
        quotas: definition.svc_quotas.clone(),
        token: token.digest(),
    }
}

/// The socket of bismuth-init in the directory that is mounted for it, see [`Launcher::run_dir`].
fn init_socket(run_dir: &Path) -> PathBuf {
    run_dir.join(bismuth_init::SOCKET_NAME)
}
