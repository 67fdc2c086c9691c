//! Bringing a container up, taking it down, and going on with one that runs.
//!
//! ```text
//!  up:    image ─► ids ─► namespaces ─► root filesystem ─► user ─► log ─► task ─► start ─► answers?
//!  down:  task ◄────────────────────────────────────────────────────────────────────────────┘
//!           └─► log ─► root filesystem ─► namespaces ─► cgroup          (each repeatable, all tried)
//!  adopt: remembered process alive? namespaces pinned? root mounted? ─► log ─► answers
//! ```
//!
//! `up` that fails half-way undoes what it did by `down`, which is written so that it can be run on
//! anything: a container that never was, one that is half made, one that a crashed process left.

mod agent_ready;
mod describe;
mod error;
mod ground;
mod ready;
mod user;

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bismuth_containerd::images::{Images, PreparedImage, PullPolicy, PullProgress};
use bismuth_containerd::spec;
use bismuth_containerd::tasks::{Exit, NewContainer, RuntimeOptions, SIGTERM, Stdio, Tasks};
use bismuth_model::{ContainerId, ContainerState, FunctionDefinition, FunctionId, InvokeMode};
use bismuth_sandbox::ids::{IdAllocator, IdPool, IdRange};
use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::process::{self, Process, Watched};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use error::LaunchError;
pub use ready::NotReady;

use super::program::{ImageDefaults, Program, program};
use super::slot::{ExecTarget, Live, Slot, Target};
use super::state_dir::{SavedRun, SavedSlot, StateDir};
use crate::logs::cri::Stream;
use crate::logs::pump::{self, fifo_path};
use crate::logs::rotate::Limits;
use crate::logs::thread::LogThread;
use ground::Ground;
use user::User;

/// How long the exit of a process that has ended may take to be known to its shim.
const EXIT_BOUND: Duration = Duration::from_secs(5);
/// Names us as the owner of a container among others in the namespace.
const OWNER_LABEL: &str = "bismuth.node";

/// How containers are made on this node.
#[derive(Clone, Debug)]
pub struct LaunchConfig {
    /// The static bismuth-init on the host.
    pub init: PathBuf,
    /// Which OCI runtime.
    pub runtime: RuntimeOptions,
    /// Whether memory limits cover swap too, see [`spec::SpecInput::limit_swap`].
    pub limit_swap: bool,
    /// Log files per container.
    pub log_limits: Limits,
    /// This node's name, kept as a label of its containers.
    pub node: String,
}

/// Everything that starting and stopping needs. One per node.
pub struct Launcher {
    config: LaunchConfig,
    tasks: Arc<dyn Tasks>,
    images: Arc<dyn Images>,
    state: Arc<StateDir>,
    logs: LogThread,
    ids: Mutex<IdAllocator<FunctionId>>,
}

/// A started container, in the hands of its driver.
#[derive(Debug)]
pub struct Running {
    /// What requests need.
    pub live: Arc<Live>,
    /// Its process; readable when it has ended.
    pub process: Watched,
    /// When it was started, milliseconds since the Unix epoch.
    pub started_ms: u64,
}

/// The time as records carry it.
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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
    /// A launcher that reserves the id ranges which remembered containers already use.
    pub fn new(
        config: LaunchConfig,
        tasks: Arc<dyn Tasks>,
        images: Arc<dyn Images>,
        state: Arc<StateDir>,
        logs: LogThread,
        pool: IdPool,
    ) -> Self {
        Self {
            config,
            tasks,
            images,
            state,
            logs,
            ids: Mutex::new(IdAllocator::new(pool)),
        }
    }

    /// The containers side of containerd.
    pub fn tasks(&self) -> &Arc<dyn Tasks> {
        &self.tasks
    }

    /// The node's memory.
    pub fn state(&self) -> &Arc<StateDir> {
        &self.state
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, IdAllocator<FunctionId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves the range that a remembered container uses. A conflict is the memory's fault: the
    /// container keeps running as it is, and its function gets another range at its next start.
    pub fn reserve_ids(&self, saved: &SavedSlot) {
        let range = IdRange {
            host_start: saved.id_range_start,
            size: IdRange::SIZE,
        };
        if let Err(error) = self.ids().reserve(saved.function_id, range) {
            warn!(function = %saved.function_id, %error, "cannot keep the user ids of a function");
        }
    }

    /// Gives the range of a function back, once it has no container here.
    pub fn release_ids(&self, function: FunctionId) {
        self.ids().release(&function);
    }

    /// Remembers a slot that is not running.
    pub async fn remember(
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

    /// Starts the container and waits until it answers. `report` hears of each state on the way.
    /// On failure everything is undone again.
    pub async fn up(
        &self,
        slot: &Slot,
        created_ms: u64,
        called_off: &CancellationToken,
        report: &(dyn Fn(ContainerState) + Send + Sync),
    ) -> Result<Running, LaunchError> {
        match self.try_up(slot, created_ms, called_off, report).await {
            Ok(running) => Ok(running),
            Err(error) => {
                self.down(slot.container_id).await;
                Err(error)
            }
        }
    }

    async fn try_up(
        &self,
        slot: &Slot,
        created_ms: u64,
        called_off: &CancellationToken,
        report: &(dyn Fn(ContainerState) + Send + Sync),
    ) -> Result<Running, LaunchError> {
        report(ContainerState::Pulling);
        let image = self.image(&slot.definition, called_off).await?;
        report(ContainerState::Starting);
        let range = self
            .ids()
            .allocate(slot.function_id)
            .map_err(LaunchError::Ids)?;
        let ground = self.prepare(slot, &image, range).await?;
        let program = program(
            &slot.definition,
            ImageDefaults {
                env: &image.config.env,
                working_dir: Some(image.config.working_dir.as_str()),
                home: &ground.user.home,
            },
            slot.function_id,
            slot.container_id,
        );
        let mut ground = ground;
        let pump = ground.pump.take().ok_or(LaunchError::Internal)?;
        let stderr = pump.stderr_writer().map_err(LaunchError::Watch)?;
        self.logs.spawn(slot.container_id, pump);
        let process = self
            .start_task(slot, &image, range, &ground, &program)
            .await?;
        let started_ms = now_ms();
        let saved = SavedRun {
            pid: process.pid(),
            started_ticks: process.identity().started_ticks,
            boot_id: process.identity().boot_id.clone(),
            started_ms,
            image_digest: image.digest.to_string(),
            user: (ground.user.uid, ground.user.gid),
            groups: ground.user.groups.clone(),
            program: program.clone(),
        };
        let remembered = self.remember(slot, created_ms, Some(saved));
        let ready = self.wait_until_ready(slot, ground.namespaces, process, called_off);
        let (remembered, ready) = tokio::join!(remembered, ready);
        let (namespaces, process, connection) = ready?;
        remembered?;
        let target = self.target(slot, program, &ground.user, stderr);
        Ok(Running {
            live: Arc::new(Live::new(
                namespaces,
                target,
                image.digest.to_string(),
                connection,
            )),
            process: Watched::new(process).map_err(LaunchError::Watch)?,
            started_ms,
        })
    }

    async fn image(
        &self,
        definition: &FunctionDefinition,
        called_off: &CancellationToken,
    ) -> Result<PreparedImage, LaunchError> {
        let (progress, _nobody_listens) = watch::channel(PullProgress::default());
        let ensure = self.images.ensure(
            definition.image.as_reference(),
            PullPolicy::IfMissing,
            progress,
        );
        tokio::select! {
            image = ensure => image.map_err(LaunchError::Image),
            () = called_off.cancelled() => Err(LaunchError::CalledOff),
        }
    }

    /// Namespaces, root filesystem, user and log: what the task will stand on.
    async fn prepare(
        &self,
        slot: &Slot,
        image: &PreparedImage,
        range: IdRange,
    ) -> Result<Ground, LaunchError> {
        let wish = ground::Wish {
            dir: self.state.container_dir(slot.container_id),
            log_dir: self.state.log_dir(slot.container_id),
            log_limits: self.config.log_limits,
            layers: image.lower_dirs.clone(),
            disk_bytes: slot.definition.disk,
            user: slot
                .definition
                .user
                .clone()
                .or_else(|| Some(image.config.user.clone())),
            ids: range,
            exec: matches!(slot.definition.invoke_mode, InvokeMode::Executable(_)),
        };
        blocking(move || ground::make(&wish)).await
    }

    async fn start_task(
        &self,
        slot: &Slot,
        image: &PreparedImage,
        range: IdRange,
        ground: &Ground,
        program: &Program,
    ) -> Result<Process, LaunchError> {
        let id = slot.container_id.to_string();
        let dir = self.state.container_dir(slot.container_id);
        let nofile = self
            .tasks
            .nofile_limit()
            .await
            .map_err(LaunchError::Containerd)?;
        let mut input =
            describe::spec_input(slot, range, ground, program, self.config.limit_swap, nofile);
        if matches!(slot.definition.invoke_mode, InvokeMode::Executable(_)) {
            describe::put_init_in_front(&mut input, &self.config.init, &dir.join(ground::RUN));
        }
        let container = NewContainer {
            id: id.clone(),
            spec: spec::build(&input).map_err(LaunchError::Spec)?,
            image: Some(image.reference.to_string()),
            labels: HashMap::from([(OWNER_LABEL.to_owned(), self.config.node.clone())]),
            runtime: self.config.runtime.clone(),
            shim_group: None,
        };
        let first_word = program.argv.first().map_or("", String::as_str);
        let started = |error| LaunchError::from_start(error, first_word);
        self.tasks
            .create_container(container)
            .await
            .map_err(LaunchError::Containerd)?;
        let stdio = Stdio::fifos(
            fifo_path(&dir, Stream::Stdout),
            fifo_path(&dir, Stream::Stderr),
        );
        let pid = self.tasks.create_task(&id, stdio).await.map_err(started)?;
        let process = Process::open(pid).map_err(LaunchError::Process)?;
        self.tasks.start(&id).await.map_err(started)?;
        Ok(process)
    }

    async fn wait_until_ready(
        &self,
        slot: &Slot,
        namespaces: Namespaces,
        process: Process,
        called_off: &CancellationToken,
    ) -> Result<(Namespaces, Process, Option<TcpStream>), LaunchError> {
        let definition = Arc::clone(&slot.definition);
        let called_off = called_off.clone();
        let run_dir = self
            .state
            .container_dir(slot.container_id)
            .join(ground::RUN);
        let waited = tokio::task::spawn_blocking(move || {
            let bound = Duration::from_millis(definition.startup_timeout_ms);
            let ready = match &definition.invoke_mode {
                InvokeMode::Server(_, port) => ready::wait(&ready::Wait {
                    net: namespaces.net_fd(),
                    process: &process,
                    port: *port,
                    path: definition.readiness.as_ref().map(|r| r.path.as_str()),
                    bound,
                    called_off: &called_off,
                })
                .map(Some)
                .map_err(Unready::Server),
                InvokeMode::Executable(_) => {
                    agent_ready::wait(&run_dir, &process, bound, &called_off)
                        .map(|()| None)
                        .map_err(Unready::Agent)
                }
            };
            (namespaces, process, ready)
        })
        .await;
        let Ok((namespaces, process, ready)) = waited else {
            return Err(LaunchError::Internal);
        };
        match ready {
            Ok(connection) => Ok((namespaces, process, connection)),
            Err(unready) => Err(self.explain(slot.container_id, &process, unready).await),
        }
    }

    /// Turns "it is not ready" into what the deployer can act on: how it ended, what it printed.
    async fn explain(&self, id: ContainerId, process: &Process, unready: Unready) -> LaunchError {
        if matches!(
            unready,
            Unready::Server(NotReady::CalledOff)
                | Unready::Agent(agent_ready::AgentNotReady::CalledOff)
        ) {
            return LaunchError::CalledOff;
        }
        let ended = process.has_ended().unwrap_or(false);
        let exit = if ended { self.exit(id).await } else { None };
        self.logs.stop(id).await;
        let tail = self.logs.tail(&self.state.log_dir(id)).await;
        if let Some(exit) = exit {
            return LaunchError::Died { exit, tail };
        }
        match unready {
            Unready::Server(source) => LaunchError::NotReady { source, tail },
            Unready::Agent(source) => LaunchError::Agent(source),
        }
    }

    /// How a container whose process has ended did so, if its shim can say it in time.
    pub async fn exit(&self, id: ContainerId) -> Option<Exit> {
        let id = id.to_string();
        match tokio::time::timeout(EXIT_BOUND, self.tasks.wait(&id)).await {
            Ok(Ok(exit)) => Some(exit),
            Ok(Err(error)) => {
                warn!(container = id, %error, "cannot learn how the process ended");
                None
            }
            Err(_elapsed) => {
                warn!(
                    container = id,
                    "the shim does not say how the process ended"
                );
                None
            }
        }
    }

    /// Why a container that answered has ended, for its deployer.
    pub async fn epitaph(&self, id: ContainerId) -> String {
        let exit = self.exit(id).await;
        let out_of_memory = ground::killed_for_memory(id);
        self.logs.stop(id).await;
        let tail = self.logs.tail(&self.state.log_dir(id)).await;
        let how = exit.map_or_else(
            || "the program ended".to_owned(),
            |exit| format!("the program ended with {exit}"),
        );
        let why = if out_of_memory { ", out of memory" } else { "" };
        format!("{how}{why}{tail}")
    }

    /// Asks the program to end, if it handles the signal, and gives it `grace` to do so.
    pub async fn terminate(&self, id: ContainerId, running: &Running, grace: Duration) {
        // The kernel drops a signal that the first process of a pid namespace does not handle.
        match process::handles_signal(running.pid(), Signal::TERM) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return info!(container = %id, %error, "ended before it was asked to"),
        }
        match self.tasks.kill(&id.to_string(), SIGTERM, false).await {
            Ok(()) => {
                if tokio::time::timeout(grace, running.ended()).await.is_err() {
                    info!(container = %id, grace_ms = grace.as_millis() as u64, "did not end after SIGTERM, it is killed");
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                warn!(container = %id, error = bismuth_daemon::exit::chain(&error), "cannot send SIGTERM")
            }
        }
    }

    fn target(&self, slot: &Slot, program: Program, user: &User, stderr: OwnedFd) -> Target {
        match &slot.definition.invoke_mode {
            InvokeMode::Server(_, port) => Target::Server { port: *port },
            InvokeMode::Executable(_) => Target::Exec(ExecTarget {
                socket: agent_socket(
                    &self
                        .state
                        .container_dir(slot.container_id)
                        .join(ground::RUN),
                ),
                program,
                user: (user.uid, user.gid),
                groups: user.groups.clone(),
                stderr,
            }),
        }
    }

    /// Goes on with a container that an earlier process started; `None` if it does not run as it
    /// should, and then it is taken down.
    pub async fn adopt(&self, slot: &Slot, saved: &SavedSlot) -> Option<Running> {
        match self.try_adopt(slot, saved).await {
            Ok(Some(running)) => Some(running),
            Ok(None) => {
                self.down(slot.container_id).await;
                None
            }
            Err(error) => {
                warn!(container = %slot.container_id, error = bismuth_daemon::exit::chain(&error), "cannot go on with a container, it is started anew");
                self.down(slot.container_id).await;
                None
            }
        }
    }

    async fn try_adopt(
        &self,
        slot: &Slot,
        saved: &SavedSlot,
    ) -> Result<Option<Running>, LaunchError> {
        let Some(run) = &saved.run else {
            return Ok(None);
        };
        let Some(process) = Process::adopt(&run.identity()).map_err(LaunchError::Process)? else {
            return Ok(None);
        };
        let dir = self.state.container_dir(slot.container_id);
        let log_dir = self.state.log_dir(slot.container_id);
        let range = IdRange {
            host_start: saved.id_range_start,
            size: IdRange::SIZE,
        };
        let user = User {
            uid: run.user.0,
            gid: run.user.1,
            groups: run.groups.clone(),
            home: String::new(),
        };
        let owner = ground::host_owner(range, &user);
        let limits = self.config.log_limits;
        let (namespaces, pump) = blocking(move || {
            let namespaces = Namespaces::open(&dir).map_err(LaunchError::Namespaces)?;
            let pump = pump::open(&dir, owner, &log_dir, limits)?;
            Ok((namespaces, pump))
        })
        .await?;
        let stderr = pump.stderr_writer().map_err(LaunchError::Watch)?;
        let target = self.target(slot, run.program.clone(), &user, stderr);
        self.logs.spawn(slot.container_id, pump);
        info!(container = %slot.container_id, pid = run.pid, "adopted");
        Ok(Some(Running {
            live: Arc::new(Live::new(
                namespaces,
                target,
                run.image_digest.clone(),
                None,
            )),
            process: Watched::new(process).map_err(LaunchError::Watch)?,
            started_ms: run.started_ms,
        }))
    }

    /// Takes down whatever there is of a container, except its log and what is remembered of it.
    /// Tries everything; returns whether nothing is left.
    pub async fn down(&self, id: ContainerId) -> bool {
        let mut clean = true;
        if let Err(error) = self.tasks.teardown(&id.to_string()).await {
            warn!(container = %id, error = bismuth_daemon::exit::chain(&error), "cannot take down the task");
            clean = false;
        }
        self.logs.stop(id).await;
        let dir = self.state.container_dir(id);
        let ground = tokio::task::spawn_blocking(move || ground::remove(&dir, id)).await;
        clean && ground.unwrap_or(false)
    }

    /// Removes what is remembered of a container. Call it after [`Launcher::down`] came out clean.
    pub async fn forget(&self, id: ContainerId) -> bool {
        let state = Arc::clone(&self.state);
        let forgotten = tokio::task::spawn_blocking(move || state.forget_slot(id)).await;
        match forgotten {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                warn!(container = %id, error = bismuth_daemon::exit::chain(&error), "cannot forget a container");
                false
            }
            Err(_panicked) => false,
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

impl Running {
    /// Its process id on the node.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns when its process has ended. Cancel safe.
    pub async fn ended(&self) {
        self.process.ended().await;
    }
}

/// The socket of bismuth-init in the directory that is mounted for it.
fn agent_socket(run_dir: &Path) -> PathBuf {
    run_dir.join(bismuth_init::SOCKET_NAME)
}

enum Unready {
    Server(NotReady),
    Agent(agent_ready::AgentNotReady),
}
