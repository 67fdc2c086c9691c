//! Builds bismuthd from its flags, and runs its tasks until the shutdown.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bismuth_containerd::images::{ImageStore, ImageStoreConfig, Images, RegistryConfig};
use bismuth_containerd::tasks::Tasks as ContainerTasks;
use bismuth_containerd::{Containerd, Deadlines};
use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_daemon::listen::{BindError, CoreListener};
use bismuth_daemon::{Admin, Policy, Shutdown, Tasks, admin, cores, limits, listen, run_per_core};
use bismuth_handover::NodeName;
use bismuth_model::ContainerStatus;
use bismuth_registry::{AssignedContainer, Assignment, Registry};
use bismuth_sandbox::{cgroup, mounts, rootfs};
use clap::ValueEnum as _;
use thiserror::Error;
use tokio::net::TcpListener;
use tracing::info;

use crate::config::Args;
use crate::invoke::metrics::Metrics;
use crate::invoke::worker::{self, WorkerDeps};
use crate::logs::rotate::Limits;
use crate::logs::serve::LogDirs;
use crate::logs::thread::LogThread;
use crate::node::driver::StopBounds;
use crate::node::launch::{LaunchConfig, Launcher};
use crate::node::reconcile::{Deps, Reconciler, SlotTable};
use crate::node::state_dir::{StateDir, StateError};
use crate::node::status::{NodeRecords, StatusReporter};
use crate::node_registration::{self, Registered};
use crate::svcprovider::{
    ProviderConfig, SecretSource, ServiceSockets, SocketReconciler, SocketReconcilerConfig,
};
use crate::{facts, garbage_collection};

/// `sun_path` holds 107 characters (unix(7)); below the state directory a socket's path has
/// `/containers/`, an id of 36, and `/run/init.sock`.
const LONGEST_STATE_DIR: usize = 45;

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    State(#[from] StateError),
    /// Too long for the sockets below it.
    #[error("the path of the state directory {} is longer than {LONGEST_STATE_DIR} characters", .0.display())]
    StateDirTooLong(PathBuf),
    #[error("share the mounts below the state directory")]
    Share(#[source] mounts::Error),
    /// Id-mapped mounts do not work there.
    #[error("mount id-mapped root filesystems below the state directory")]
    Rootfs(#[source] rootfs::Error),
    /// Not root, or a kernel without control groups.
    #[error("find the control groups")]
    Cgroup(#[source] cgroup::Error),
    #[error("there is no bismuth-init at {}; give its path with --init", .0.display())]
    NoInit(PathBuf),
    #[error("configure the connection to containerd")]
    Containerd(#[source] bismuth_containerd::Error),
    #[error("start the log thread")]
    LogThread(#[source] std::io::Error),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("start the workers")]
    Workers(#[source] cores::CoresError),
}

/// A node, ready to run.
pub struct Service {
    args: Args,
    listeners: Vec<CoreListener>,
    admin_listener: TcpListener,
    containerd: Containerd,
    images: Arc<dyn Images>,
    launcher: Arc<Launcher>,
    registry: Registry,
    service_sockets: ServiceSockets,
}

impl Service {
    /// Claims what the node needs: the state directory, the addresses. Waits for nobody.
    /// Call it in a tokio runtime.
    pub fn build(args: Args) -> Result<Self, StartError> {
        if args.state_dir.as_os_str().len() > LONGEST_STATE_DIR {
            return Err(StartError::StateDirTooLong(args.state_dir));
        }
        let init = init_path(args.init.as_deref())?;
        let state = Arc::new(StateDir::open(&args.state_dir)?);
        mounts::make_shared_dir(state.root()).map_err(StartError::Share)?;
        rootfs::probe(state.root()).map_err(StartError::Rootfs)?;
        limits::allow_many_descriptors();
        let workers = args.workers.map_or_else(cores::available, usize::from);
        let listeners = listen::bind_per_core(args.listen, workers)?;
        let admin_listener = listen::bind(args.admin_listen)?;
        let cgroups = cgroup::detect().map_err(StartError::Cgroup)?;
        let containerd = Containerd::connect(
            &args.containerd,
            &args.containerd_namespace,
            Deadlines::default(),
        )
        .map_err(StartError::Containerd)?;
        let images: Arc<dyn Images> = Arc::new(image_store(&args, containerd.clone()));
        let config = LaunchConfig {
            init,
            runtime: args.runtime.clone(),
            limit_swap: cgroups.accounts_swap(),
            log_limits: Limits {
                file_bytes: args.log_file_bytes,
                files: usize::from(args.log_files),
            },
            node: args.node_ip.to_string(),
            secrets: SecretSource::new(args.svcprovider_socket.clone(), node_name(args.node_ip)),
        };
        let logs = LogThread::start().map_err(StartError::LogThread)?;
        let tasks: Arc<dyn ContainerTasks> = Arc::new(containerd.clone());
        let service_sockets = ServiceSockets::default();
        let launcher = Launcher::new(
            config,
            tasks,
            Arc::clone(&images),
            state,
            logs,
            service_sockets.clone(),
            args.id_pool,
        );
        let tree = ZkTree::connect_lazy(&args.zookeeper.servers, ConnectOptions::default());
        let registry = Registry::new(Arc::new(tree), args.zookeeper.environment.clone());
        Ok(Self {
            args,
            listeners,
            admin_listener,
            containerd,
            images,
            launcher: Arc::new(launcher),
            registry,
            service_sockets,
        })
    }

    /// The address that accepts requests.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listeners.first()?.local_addr().ok()
    }

    /// Runs until the shutdown, and then lets requests in flight end. Containers keep running.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut registry = prometheus_client::registry::Registry::with_prefix("bismuthd");
        let metrics = Metrics::register(&mut registry);
        let admin = Admin::new(registry).unready_on(&shutdown);
        let adopted = admin.condition("adopted");
        let tasks = Tasks::new(&shutdown);
        let table = Arc::new(SlotTable::default());
        let drain = self.args.drain;
        info!(address = ?self.address(), admin = %self.args.admin_listen, node = %self.args.node_ip, "bismuthd listens");

        tasks.spawn(
            "admin",
            Policy::EndsProcess,
            admin::serve(self.admin_listener, admin, shutdown.clone()),
        );
        let earlier = recovered_assignment(self.launcher.state());
        let ended = shutdown.clone();
        let (assignment, following) =
            self.registry
                .watch_assignment(self.args.node_ip, earlier, async move {
                    ended.cancelled().await
                });
        tasks.spawn("assignment", Policy::EndsProcess, following);
        let reporter = StatusReporter::default();
        let deps = Deps {
            launcher: Arc::clone(&self.launcher),
            reporter: reporter.clone(),
            bounds: StopBounds {
                drain,
                grace: self.args.stop_grace,
            },
            queue: self.args.queue,
        };
        // Drivers end with the process and their containers do not: they are not waited for.
        let drivers = Tasks::new(&shutdown.child());
        let mut reconciler = Reconciler::new(deps, Arc::clone(&table), drivers);
        reconciler.serve_recovered().await;
        adopted.met();
        // Not before the recovered sockets are added: svcprovider lets go of what nobody names.
        let socket_reconciler =
            SocketReconciler::new(self.service_sockets, socket_reconciler_config(&self.args));
        tasks.spawn(
            "service sockets",
            Policy::EndsProcess,
            socket_reconciler.run(shutdown.clone()),
        );
        // A connection, one to its program, and as many for the containers: their logs, sockets and namespaces.
        let connections = limits::connections(self.args.max_connections, 4);
        // Until here connections wait in the listeners' backlogs.
        let count = self.listeners.len();
        let workers = start_workers(
            self.listeners,
            WorkerDeps {
                table: Arc::clone(&table),
                logs: LogDirs::new(self.launcher.state().root().join("logs")),
                metrics,
                // The kernel spreads them over the workers' listeners by hash, so rarely evenly: rounded up.
                max_connections: connections.div_ceil(count),
                drain,
            },
            &shutdown,
        )?;
        tasks.spawn("workers", Policy::EndsProcess, workers.finished());

        let (set_registered, registered) = Registered::channel();
        tasks.spawn(
            "reconcile",
            Policy::EndsProcess,
            reconciler.run(assignment, registered.clone(), shutdown.clone()),
        );
        let records = NodeRecords {
            registry: self.registry.clone(),
            ip: self.args.node_ip,
        };
        let ending = shutdown.clone();
        tasks.spawn("status", Policy::EndsProcess, async move {
            tokio::select! {
                () = registered.wait() => reporter.write_to(records, ending).await,
                () = ending.cancelled() => {}
            }
        });
        let (zk, environment, ip) = (
            self.registry,
            self.args.zookeeper.environment,
            self.args.node_ip,
        );
        let (containerd, launcher) = (self.containerd, Arc::clone(&self.launcher));
        let ending = shutdown.clone();
        tasks.spawn("node registration", Policy::EndsProcess, async move {
            let facts = facts::gather(&containerd, &launcher).await;
            node_registration::keep_registered(zk, environment, ip, facts, set_registered, ending)
                .await;
        });
        let state = Arc::clone(self.launcher.state());
        let logs = garbage_collection::collect_logs(
            state,
            Arc::clone(&table),
            self.args.log_retention,
            shutdown.clone(),
        );
        tasks.spawn("old logs", Policy::EndsProcess, logs);
        let root = self.args.containerd_root;
        let images = garbage_collection::collect_images(
            self.images,
            table,
            root,
            self.args.image_retention,
            shutdown.clone(),
        );
        tasks.spawn("old images", Policy::EndsProcess, images);

        shutdown.cancelled().await;
        info!("shutting down; the containers keep running");
        // The workers drain by themselves within the same bound.
        let drained = tasks.drain(drain + Duration::from_secs(5)).await;
        shutdown.outcome()?;
        Ok(drained?)
    }
}

/// How svcprovider knows the node.
fn node_name(ip: Ipv4Addr) -> NodeName {
    NodeName::new(ip.to_string()).expect("an address is a name")
}

fn socket_reconciler_config(args: &Args) -> SocketReconcilerConfig {
    SocketReconcilerConfig {
        socket: args.svcprovider_socket.clone(),
        node: node_name(args.node_ip),
        provider: args.svcprovider_exec.clone().map(|program| ProviderConfig {
            program,
            env: provider_env(args, |name| std::env::var_os(name).is_some()),
        }),
    }
}

/// The settings that a svcprovider of this node must share with it, by the variables of its flags. `is_set` says which variables
/// it has from our environment anyway: its log may be another than ours.
fn provider_env(args: &Args, is_set: impl Fn(&str) -> bool) -> Vec<(&'static str, OsString)> {
    let shared: [(_, OsString); 4] = [
        (
            "BISMUTH_SVCPROVIDER_SOCKET",
            (&args.svcprovider_socket).into(),
        ),
        ("BISMUTH_NODE_IP", args.node_ip.to_string().into()),
        ("BISMUTH_ZOOKEEPER", args.zookeeper.servers.as_str().into()),
        (
            "BISMUTH_ZOOKEEPER_ENV",
            args.zookeeper.environment.to_string().into(),
        ),
    ];
    let format = args.telemetry.log_format.to_possible_value();
    let format = format.map_or_else(OsString::new, |value| value.get_name().into());
    let log = [
        ("BISMUTH_LOG_FORMAT", format),
        ("BISMUTH_LOG_LEVEL", (&args.telemetry.log_level).into()),
    ];
    let log = log.into_iter().filter(|(name, _)| !is_set(name));
    shared.into_iter().chain(log).collect()
}

fn start_workers(
    listeners: Vec<CoreListener>,
    deps: WorkerDeps,
    shutdown: &Shutdown,
) -> Result<cores::Cores, StartError> {
    let count = listeners.len();
    let listeners = std::sync::Mutex::new(listeners.into_iter().map(Some).collect::<Vec<_>>());
    let shutdown = shutdown.clone();
    run_per_core(count, "bismuthd", move |core| {
        let mut listeners = listeners
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let listener = listeners.get_mut(core.index()).and_then(Option::take);
        let (deps, shutdown) = (deps.clone(), shutdown.clone());
        async move {
            match listener {
                Some(listener) => worker::run(listener, deps, shutdown).await,
                None => Ok(()),
            }
        }
    })
    .map_err(StartError::Workers)
}

fn image_store(args: &Args, containerd: Containerd) -> ImageStore {
    let mut registries = RegistryConfig::default();
    registries.add_mirrors(args.registry_mirror.iter().cloned());
    let config = ImageStoreConfig {
        registries,
        credentials_file: args.registry_config.clone(),
        snapshotter: args.snapshotter.clone(),
        ..ImageStoreConfig::default()
    };
    ImageStore::new(containerd, config)
}

fn init_path(given: Option<&Path>) -> Result<PathBuf, StartError> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join("bismuth-init")));
    let path = given
        .map(Path::to_owned)
        .or(beside)
        .unwrap_or_else(|| PathBuf::from("bismuth-init"));
    // The OCI runtime mounts it: it must be absolute, and there.
    match std::fs::canonicalize(&path) {
        Ok(path) if path.is_file() => Ok(path),
        _ => Err(StartError::NoInit(path)),
    }
}

/// What the node served before, as far as it can be read; the reconciler names what cannot.
fn recovered_assignment(state: &StateDir) -> Assignment {
    let ids = state.containers().unwrap_or_default();
    let slots = ids
        .into_iter()
        .filter_map(|id| Some((id, state.load_slot(id).ok().flatten()?)));
    let containers = slots.map(|(id, saved)| {
        let assigned = AssignedContainer {
            function_id: saved.function_id,
            revision: saved.revision,
            definition: saved.definition,
            status_at_list: ContainerStatus::assigned(saved.created_ms),
        };
        (id, assigned)
    });
    Assignment {
        containers: containers.collect(),
        ..Assignment::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_svcprovider_started_here_gets_the_settings_given_as_flags() {
        let args = Args::parse_from([
            "bismuthd",
            "--node-ip=10.0.0.7",
            "--zookeeper=10.0.0.1:2181",
            "--zookeeper-env=blue",
            "--svcprovider-socket=/s",
            "--log-format=json",
        ]);
        let env = provider_env(&args, |name| name == "BISMUTH_LOG_LEVEL");
        let expected = [
            ("BISMUTH_SVCPROVIDER_SOCKET", "/s"),
            ("BISMUTH_NODE_IP", "10.0.0.7"),
            ("BISMUTH_ZOOKEEPER", "10.0.0.1:2181"),
            ("BISMUTH_ZOOKEEPER_ENV", "blue"),
            ("BISMUTH_LOG_FORMAT", "json"),
        ];
        assert_eq!(env, expected.map(|(name, value)| (name, value.into())));
    }
}
