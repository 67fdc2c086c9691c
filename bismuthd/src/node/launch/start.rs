//! Starts a container, as a chain of states.
//!
//! ```text
//!  ImageReady ─ make_sandbox ─► SandboxReady ─ create ─► Created ─ start ─► Running
//!  the image                    namespaces, root, user,  its process,       answers
//!      │                        log, service socket      not started
//!      │ fails                       │ fails                 │ fails, dies, is cancelled
//!      └─────────────────────────────┴──► teardown ◄─────────┘
//! ```
//!
//! A state owns what exists in it and is consumed by the method that leads to the next one; a method that fails has undone
//! everything when it returns. Undoing asks containerd and the kernel, so it is awaited: whoever gives a state up calls its
//! `teardown`, and nothing is left to `Drop`. Never drop a future of this module half-way: what it made would stay until the
//! slot is started again or retired, or until the next process sweeps it. Where that cannot be helped (a panic, the end of
//! the runtime) this is what happens, and [`Launcher::teardown`] is written for it.

use std::collections::HashMap;
use std::fmt;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bismuth_base::now_ms;
use bismuth_containerd::images::{PreparedImage, PullPolicy, PullProgress};
use bismuth_containerd::spec;
use bismuth_containerd::tasks::{NewContainer, Stdio};
use bismuth_model::{ContainerState, FunctionDefinition, InvokeMode};
use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::process::{Process, WatchedProcess};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::error::LaunchError;
use super::inject::delivery;
use super::readiness::Wait;
use super::sandbox::{self, Sandbox, SandboxSpec};
use super::user::User;
use super::{Launcher, OWNER_LABEL, RunningContainer, StartOptions, blocking, spec_input};
use crate::logs::copier::{StderrFifo, fifo_path};
use crate::logs::cri::Stream;
use crate::node::program::{ImageDefaults, Program, program};
use crate::node::slot::{ContainerEndpoint, Slot};
use crate::node::state_dir::SavedRun;
use crate::svcprovider::{Secrets, Token};

/// Permits the making of one container, see [`Launcher::start_permit`].
type StartPermit = OwnedSemaphorePermit;

/// Whose container it is, and who tears it down.
#[derive(Clone)]
pub(super) struct Container {
    pub launcher: Arc<Launcher>,
    pub slot: Arc<Slot>,
}

/// The image is on this node, and nothing of the container.
struct ImageReady {
    container: Container,
    image: PreparedImage,
}

/// All that the container runs in is there: its services can be called, its output is logged.
struct SandboxReady {
    container: Container,
    image: PreparedImage,
    sandbox: Sandbox,
    token: Token,
    stderr: StderrFifo,
    permit: StartPermit,
}

/// containerd has made the container's process, which waits before its program. It may stay so: it has neither secrets nor a
/// permit, and costs only its start.
struct Created {
    container: Container,
    namespaces: Namespaces,
    user: User,
    program: Program,
    stderr: StderrFifo,
    process: WatchedProcess,
    image_digest: String,
}

impl Launcher {
    /// Starts the container and waits until it answers. `report` hears of each state on the way.
    ///
    /// # Errors
    /// As [`LaunchError`] says; everything is undone again.
    pub async fn start(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        start: StartOptions<'_>,
        report: &(dyn Fn(ContainerState) + Send + Sync),
    ) -> Result<RunningContainer, LaunchError> {
        let container = Container {
            launcher: Arc::clone(self),
            slot: Arc::clone(slot),
        };
        let (image, secrets, permit) = match self.prepare(slot, start, report).await {
            Ok(prepared) => prepared,
            // Nothing was made yet, but an earlier start or process may have left something behind.
            Err(error) => {
                container.teardown().await;
                return Err(error);
            }
        };
        let sandbox = ImageReady { container, image }.make_sandbox(permit).await?;
        let (created, permit) = sandbox.create().await?;
        created.start(secrets, permit, start).await
    }

    /// Waits for what a start needs from elsewhere: the image, the secrets, a permit.
    async fn prepare(
        &self,
        slot: &Slot,
        start: StartOptions<'_>,
        report: &(dyn Fn(ContainerState) + Send + Sync),
    ) -> Result<(PreparedImage, Secrets, StartPermit), LaunchError> {
        report(ContainerState::Pulling);
        let image = self.image(&slot.definition, start).await?;
        report(ContainerState::Starting);
        let group = slot.definition.service_group(slot.function_id);
        let asked = &slot.definition.secrets;
        let secrets = self.config.secrets.fetch(&group, asked).await?;
        Ok((image, secrets, self.start_permit().await?))
    }

    async fn image(
        &self,
        definition: &FunctionDefinition,
        start: StartOptions<'_>,
    ) -> Result<PreparedImage, LaunchError> {
        let (progress, _nobody_listens) = watch::channel(PullProgress::default());
        let policy = if start.deployment {
            PullPolicy::Refresh
        } else {
            PullPolicy::IfMissing
        };
        let ensure = self
            .images
            .ensure(definition.image.as_reference(), policy, progress);
        tokio::select! {
            image = ensure => image.map_err(LaunchError::Image),
            // A pull that nobody waits for is given up; what it got so far is kept for the next.
            () = start.cancelled.cancelled() => Err(LaunchError::Cancelled),
        }
    }

    /// Waits until another container may be made.
    async fn start_permit(&self) -> Result<StartPermit, LaunchError> {
        let permit = Arc::clone(&self.start_permits).acquire_owned().await;
        permit.map_err(|_never_closed| LaunchError::Internal)
    }
}

impl ImageReady {
    async fn make_sandbox(self, permit: StartPermit) -> Result<SandboxReady, LaunchError> {
        match self.try_make_sandbox().await {
            Ok((sandbox, token, stderr)) => Ok(SandboxReady {
                container: self.container,
                image: self.image,
                sandbox,
                token,
                stderr,
                permit,
            }),
            Err(error) => {
                drop(permit);
                self.container.teardown().await;
                Err(error)
            }
        }
    }

    async fn try_make_sandbox(&self) -> Result<(Sandbox, Token, StderrFifo), LaunchError> {
        let Container { launcher, slot } = &self.container;
        let spec = self.sandbox_spec()?;
        let token = Token::random().map_err(LaunchError::Token)?;
        let made = blocking(move || sandbox::make(&spec)).await?;
        let (id, function) = (slot.container_id, slot.function_id);
        let attachment = super::attachment(id, function, &slot.definition, &token);
        launcher
            .service_sockets
            .add(attachment, made.service_socket);
        let stderr = made.copier.stderr_fifo().map_err(LaunchError::Watch)?;
        launcher.logs.spawn(id, made.copier);
        Ok((made.sandbox, token, stderr))
    }

    fn sandbox_spec(&self) -> Result<SandboxSpec, LaunchError> {
        let Container { launcher, slot } = &self.container;
        let ids = launcher.ids().allocate(slot.function_id);
        let image_user = || Some(self.image.config.user.clone());
        Ok(SandboxSpec {
            dir: launcher.state.container_dir(slot.container_id),
            log_dir: launcher.state.log_dir(slot.container_id),
            log_limits: launcher.config.log_limits,
            layers: self.image.lower_dirs.clone(),
            disk_bytes: slot.definition.disk,
            user: slot.definition.user.clone().or_else(image_user),
            ids: ids.map_err(LaunchError::Ids)?,
            init: uses_init(&slot.definition),
        })
    }
}

impl SandboxReady {
    /// Gives the permit back with the container, which may wait for its start without one.
    async fn create(self) -> Result<(Created, StartPermit), LaunchError> {
        let program = self.program();
        match self.try_create(&program).await {
            Ok(process) => {
                let created = Created {
                    container: self.container,
                    namespaces: self.sandbox.namespaces,
                    user: self.sandbox.user,
                    program,
                    stderr: self.stderr,
                    process,
                    image_digest: self.image.digest.to_string(),
                };
                Ok((created, self.permit))
            }
            Err(error) => {
                drop(self.permit);
                self.container.teardown().await;
                Err(error)
            }
        }
    }

    fn program(&self) -> Program {
        let slot = &self.container.slot;
        let defaults = ImageDefaults {
            env: &self.image.config.env,
            working_dir: Some(self.image.config.working_dir.as_str()),
            home: &self.sandbox.user.home,
        };
        let (id, function) = (slot.container_id, slot.function_id);
        program(&slot.definition, defaults, function, id, &self.token)
    }

    async fn try_create(&self, program: &Program) -> Result<WatchedProcess, LaunchError> {
        let Container { launcher, slot } = &self.container;
        let id = slot.container_id.to_string();
        let dir = launcher.state.container_dir(slot.container_id);
        let server = launcher.tasks.server_process().await;
        let server = server.map_err(LaunchError::Containerd)?;
        let limit_swap = launcher.config.limit_swap;
        let mut input =
            spec_input::spec_input(slot, &self.sandbox, program, limit_swap, server.nofile);
        if uses_init(&slot.definition) {
            let run_dir = launcher.run_dir(slot.container_id);
            spec_input::set_init_as_entrypoint(&mut input, &launcher.config.init, &run_dir);
        }
        let container = NewContainer {
            id: id.clone(),
            spec: spec::build(&input).map_err(LaunchError::Spec)?,
            image: Some(self.image.reference.to_string()),
            labels: HashMap::from([(OWNER_LABEL.to_owned(), launcher.config.node.clone())]),
            runtime: launcher.runtime.binary_for(server.pid),
        };
        let created = launcher.tasks.create_container(container).await;
        created.map_err(LaunchError::Containerd)?;
        let stdio = Stdio::fifos(
            fifo_path(&dir, Stream::Stdout),
            fifo_path(&dir, Stream::Stderr),
        );
        let pid = launcher.tasks.create_task(&id, stdio).await;
        let pid = pid.map_err(|error| LaunchError::from_start(error, &program.argv))?;
        let process = Process::open(pid).map_err(LaunchError::Process)?;
        WatchedProcess::new(process).map_err(LaunchError::Watch)
    }
}

impl Created {
    /// The permit ends with the start of the program: waiting for its answer needs none.
    async fn start(
        self,
        secrets: Secrets,
        permit: StartPermit,
        start: StartOptions<'_>,
    ) -> Result<RunningContainer, LaunchError> {
        match self.try_start(secrets, permit, start).await {
            Ok((connection, started_ms)) => Ok(self.into_running(connection, started_ms)),
            Err(error) => {
                self.container.teardown().await;
                Err(error)
            }
        }
    }

    async fn try_start(
        &self,
        secrets: Secrets,
        permit: StartPermit,
        start: StartOptions<'_>,
    ) -> Result<(Option<TcpStream>, u64), LaunchError> {
        let Container { launcher, slot } = &self.container;
        let delivery = delivery(&slot.definition, &self.program, &self.user, secrets);
        let delivery = delivery.map_err(|error| LaunchError::Inject(error.into()))?;
        let started = launcher.tasks.start(&slot.container_id.to_string()).await;
        started.map_err(|error| LaunchError::from_start(error, &self.program.argv))?;
        drop(permit);
        let started_ms = now_ms();
        let saved = launcher.save(slot, start.created_ms, Some(self.saved_run(started_ms)));
        let wait = Wait {
            bound: Duration::from_millis(slot.definition.startup_timeout_ms),
            delivery,
            cancelled: start.cancelled,
        };
        let ready = launcher.wait_until_ready(slot, &self.namespaces, &self.process, wait);
        let (saved, ready) = tokio::join!(saved, ready);
        let connection = ready?;
        saved?;
        Ok((connection, started_ms))
    }

    fn saved_run(&self, started_ms: u64) -> SavedRun {
        let identity = self.process.identity();
        SavedRun {
            proven: false,
            pid: identity.pid,
            started_ticks: identity.started_ticks,
            boot_id: identity.boot_id.clone(),
            started_ms,
            image_digest: self.image_digest.clone(),
            user: (self.user.uid, self.user.gid),
            groups: self.user.groups.clone(),
            program: self.program.clone(),
            init_has_variables: true,
        }
    }

    fn into_running(self, connection: Option<TcpStream>, started_ms: u64) -> RunningContainer {
        let Container { launcher, slot } = &self.container;
        // For the request that waits. Where none does, the program would be left with a silent client.
        let connection = connection.filter(|_| slot.admission.in_flight() > 0);
        let target = launcher.target(slot, self.program, &self.user, self.stderr, None);
        let endpoint =
            ContainerEndpoint::new(self.namespaces, target, self.image_digest, connection);
        RunningContainer {
            endpoint: Arc::new(endpoint),
            process: self.process,
            started_ms,
            container: self.container,
        }
    }
}

impl Container {
    /// See [`Launcher::teardown`]. What stays is logged, and found by the next teardown.
    pub(super) async fn teardown(&self) {
        self.launcher.teardown(self.slot.container_id).await;
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Container({})", self.slot.container_id)
    }
}

/// Whether the container begins with bismuth-init: it runs the executions, or takes the secrets.
fn uses_init(definition: &FunctionDefinition) -> bool {
    matches!(definition.invoke_mode, InvokeMode::Executable(_)) || !definition.secrets.is_empty()
}
