//! Starts a container.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bismuth_base::now_ms;
use bismuth_containerd::images::{PreparedImage, PullPolicy, PullProgress};
use bismuth_containerd::spec;
use bismuth_containerd::tasks::{NewContainer, RuntimeOptions, Stdio};
use bismuth_init::Delivery;
use bismuth_model::{ContainerState, FunctionDefinition, InvokeMode};
use bismuth_sandbox::ids::IdRange;
use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::process::{Process, Watched};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::inject::{InjectError, delivery, inject};
use super::error::LaunchError;
use super::sandbox::{self, Sandbox};
use super::ready::{self, NotReady};
use super::{Launcher, OWNER_LABEL, Running, Start, agent_ready, blocking, describe};
use crate::logs::cri::Stream;
use crate::logs::pump::fifo_path;
use crate::node::program::{ImageDefaults, Program, program};
use crate::node::slot::{Live, Slot};
use crate::node::state_dir::SavedRun;
use crate::services::Token;

enum Unready {
    Server(NotReady),
    Agent(agent_ready::AgentNotReady),
    Inject(InjectError),
}

/// What stands between a started process and one that answers.
pub(super) struct Wait<'a> {
    /// How long it may take.
    pub bound: Duration,
    /// What bismuth-init is given first.
    pub delivery: Option<Delivery>,
    /// Ends the waiting early.
    pub cancelled: &'a CancellationToken,
}

/// Whether the container begins with bismuth-init: it runs the executions, or takes the secrets.
fn init_comes_first(definition: &FunctionDefinition) -> bool {
    matches!(definition.invoke_mode, InvokeMode::Executable(_)) || !definition.secrets.is_empty()
}

impl Launcher {
    /// Starts the container and waits until it answers. `report` hears of each state on the way.
    /// On failure everything is undone again. Never drop the future: what is half made would stay.
    pub async fn start(
        &self,
        slot: &Slot,
        start: Start<'_>,
        report: &(dyn Fn(ContainerState) + Send + Sync),
    ) -> Result<Running, LaunchError> {
        match self.try_start(slot, start, report).await {
            Ok(running) => Ok(running),
            Err(error) => {
                self.teardown(slot.container_id).await;
                Err(error)
            }
        }
    }

    async fn try_start(
        &self,
        slot: &Slot,
        start: Start<'_>,
        report: &(dyn Fn(ContainerState) + Send + Sync),
    ) -> Result<Running, LaunchError> {
        report(ContainerState::Pulling);
        let image = self.image(&slot.definition, start).await?;
        report(ContainerState::Starting);
        let group = slot.definition.service_group(slot.function_id);
        let asked = &slot.definition.secrets;
        let secrets = self.config.secrets.fetch(&group, asked).await?;
        let turn = self.turns.acquire().await;
        let range = self
            .ids()
            .allocate(slot.function_id)
            .map_err(LaunchError::Ids)?;
        let token = Token::random().map_err(LaunchError::Token)?;
        let mut sandbox = self.prepare(slot, &image, range).await?;
        let service_socket = sandbox.service_socket.take().ok_or(LaunchError::Internal)?;
        let (id, function) = (slot.container_id, slot.function_id);
        let attachment = super::attachment(id, function, &slot.definition, &token);
        self.services.open(attachment, service_socket);
        let program = program(
            &slot.definition,
            ImageDefaults {
                env: &image.config.env,
                working_dir: Some(image.config.working_dir.as_str()),
                home: &sandbox.user.home,
            },
            function,
            id,
            &token,
        );
        let pump = sandbox.pump.take().ok_or(LaunchError::Internal)?;
        let stderr = pump.stderr_end().map_err(LaunchError::Watch)?;
        self.logs.spawn(slot.container_id, pump);
        let process = self
            .start_task(slot, &image, range, &sandbox, &program)
            .await?;
        drop(turn);
        let started_ms = now_ms();
        let saved = SavedRun {
            proven: false,
            pid: process.pid(),
            started_ticks: process.identity().started_ticks,
            boot_id: process.identity().boot_id.clone(),
            started_ms,
            image_digest: image.digest.to_string(),
            user: (sandbox.user.uid, sandbox.user.gid),
            groups: sandbox.user.groups.clone(),
            program: program.clone(),
            init_has_variables: true,
        };
        let delivery = delivery(&slot.definition, &program, &sandbox.user, secrets);
        let delivery = delivery.map_err(|error| LaunchError::Inject(error.into()))?;
        let saved = self.save(slot, start.created_ms, Some(saved));
        let bound = Duration::from_millis(slot.definition.startup_timeout_ms);
        let ready = self.wait_until_ready(
            slot,
            sandbox.namespaces,
            process,
            Wait {
                bound,
                delivery,
                cancelled: start.cancelled,
            },
        );
        let (saved, ready) = tokio::join!(saved, ready);
        let (namespaces, process, connection) = ready?;
        saved?;
        // For the request that waits. Where none does, the program would be left with a silent client.
        let connection = connection.filter(|_| slot.admission.in_flight() > 0);
        let target = self.target(slot, program, &sandbox.user, stderr, None);
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
        start: Start<'_>,
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

    /// Namespaces, root filesystem, user and log: what the task will stand on.
    async fn prepare(
        &self,
        slot: &Slot,
        image: &PreparedImage,
        range: IdRange,
    ) -> Result<Sandbox, LaunchError> {
        let spec = sandbox::SandboxSpec {
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
            init: init_comes_first(&slot.definition),
        };
        blocking(move || sandbox::make(&spec)).await
    }

    async fn start_task(
        &self,
        slot: &Slot,
        image: &PreparedImage,
        range: IdRange,
        sandbox: &Sandbox,
        program: &Program,
    ) -> Result<Process, LaunchError> {
        let id = slot.container_id.to_string();
        let dir = self.state.container_dir(slot.container_id);
        let server = self
            .tasks
            .server_process()
            .await
            .map_err(LaunchError::Containerd)?;
        let mut input = describe::spec_input(
            slot,
            range,
            sandbox,
            program,
            self.config.limit_swap,
            server.nofile,
        );
        if init_comes_first(&slot.definition) {
            describe::put_init_in_front(&mut input, &self.config.init, &dir.join(sandbox::RUN));
        }
        let container = NewContainer {
            id: id.clone(),
            spec: spec::build(&input).map_err(LaunchError::Spec)?,
            image: Some(image.reference.to_string()),
            labels: HashMap::from([(OWNER_LABEL.to_owned(), self.config.node.clone())]),
            runtime: RuntimeOptions::binary(self.runtime.binary_for(server.pid)),
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

    /// Waits at most `bound` until a started program answers.
    pub(super) async fn wait_until_ready(
        &self,
        slot: &Slot,
        namespaces: Namespaces,
        process: Process,
        wait: Wait<'_>,
    ) -> Result<(Namespaces, Process, Option<TcpStream>), LaunchError> {
        let definition = Arc::clone(&slot.definition);
        let Wait {
            bound,
            delivery,
            cancelled,
        } = wait;
        let cancelled = cancelled.clone();
        let run_dir = self
            .state
            .container_dir(slot.container_id)
            .join(sandbox::RUN);
        let waited = tokio::task::spawn_blocking(move || {
            let agent = || {
                agent_ready::wait(&run_dir, &process, bound, &cancelled).map_err(Unready::Agent)
            };
            let inject_secrets = || match &delivery {
                None => Ok(()),
                Some(delivery) => {
                    agent().and_then(|()| inject(&run_dir, delivery).map_err(Unready::Inject))
                }
            };
            let ready = match &definition.invoke_mode {
                InvokeMode::Server(_, port) => inject_secrets().and_then(|()| {
                    ready::wait(&ready::Wait {
                        net: namespaces.net_fd(),
                        process: &process,
                        port: *port,
                        path: definition.readiness.as_ref().map(|r| r.path.as_str()),
                        bound,
                        cancelled: &cancelled,
                    })
                    .map(Some)
                    .map_err(Unready::Server)
                }),
                InvokeMode::Executable(_) if delivery.is_some() => inject_secrets().map(|()| None),
                InvokeMode::Executable(_) => agent().map(|()| None),
            };
            (namespaces, process, ready)
        })
        .await;
        let Ok((namespaces, process, ready)) = waited else {
            return Err(LaunchError::Internal);
        };
        match ready {
            Ok(connection) => Ok((namespaces, process, connection)),
            Err(unready) => Err(self.explain(slot, &process, unready).await),
        }
    }

    /// Turns "it is not ready" into what the deployer can act on: how it ended, what it printed.
    async fn explain(&self, slot: &Slot, process: &Process, unready: Unready) -> LaunchError {
        let id = slot.container_id;
        if matches!(
            unready,
            Unready::Server(NotReady::Cancelled)
                | Unready::Agent(agent_ready::AgentNotReady::Cancelled)
        ) {
            return LaunchError::Cancelled;
        }
        if let Unready::Inject(error) = unready {
            let command = slot.definition.invoke_mode.command();
            let program = command.first().map_or("", String::as_str);
            return LaunchError::from_inject(error, program);
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
            Unready::Inject(source) => LaunchError::Inject(source),
        }
    }
}
