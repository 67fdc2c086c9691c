//! The svcprovider process: builds its parts from the flags, runs them, and drains at the end.
//!
//! ```text
//!  data directory, master keys, token ─► claim ─► engines ─► bind ─► attach · operators · collector · sweeper ─► drain
//! ```

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bismuth_base::file;
use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_daemon::listen::{BindError, CoreListener};
use bismuth_daemon::{Admin, Policy, Shutdown, Tasks, admin, cores, limits, listen};
use bismuth_registry::Registry;
use bismuth_store::blobs::{Blobs, Collected, Settings};
use bismuth_store::records::Records;
use bismuth_store::secrets::{MasterKeysError, Secrets, master_keys};
use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry as Metrics;
use thiserror::Error;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::attach::{Attach, AttachConfig, AttachError};
use crate::claim::{Claim, ClaimError};
use crate::config::{Args, ObjectsUrl, RecordsUrl};
use crate::engines::{self, EnginesError};
use crate::file_error::{FileError, failed};
use crate::health_check::HealthCheck;
use crate::http::{AppState, MemoryBudget};
use crate::metrics;
use crate::operator::{self, OperatorApi, OperatorToken, TokenError};

/// What [`FileError`] says of it.
const MAKE_DATA_DIR: &str = "make the data directory";
/// How often an engine is asked for a data key that the master keys should open.
const MASTER_KEY_CHECK_PERIOD: Duration = Duration::from_secs(2);
/// How often records whose time has come are removed.
const SWEEP_PERIOD: Duration = Duration::from_secs(10);
/// So many at a time, in a transaction of some milliseconds.
const SWEEP_LIMIT: NonZeroUsize = NonZeroUsize::new(500).expect("it is not zero");

/// Why svcprovider does not start.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Engines(#[from] EnginesError),
    #[error(transparent)]
    MasterKeys(#[from] MasterKeysError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// svcprovider, ready to run.
pub struct Service {
    args: Args,
    attach: Attach,
    admin_listener: TcpListener,
    operator_listener: CoreListener,
    operator: OperatorApi,
    registry: Metrics,
    /// What an embedded engine is served by.
    claim: Option<Claim>,
    /// Whether the master keys were seen to be those of what is stored.
    master_keys_checked: bool,
}

impl Service {
    /// Claims what it needs: the data, the addresses, the handover socket. Call it in a tokio runtime.
    ///
    /// # Errors
    /// As [`StartError`] says, in words for the operator.
    pub async fn build(args: Args) -> Result<Self, StartError> {
        limits::allow_many_descriptors();
        create_private_dir(&args.data_dir)?;
        restrict_permissions(&args.data_dir)?;
        if let Some(parent) = args.socket.parent() {
            create_private_dir(parent)?;
        }
        // Nobody else serves functions on this machine from here on.
        let attach = Attach::bind(AttachConfig {
            socket: args.socket.clone(),
            workers: args.workers.map_or_else(cores::available, usize::from),
            end_bound: args.drain,
        })?;
        let admin_listener = listen::bind(args.admin_listen)?;
        let operator_listener = listen::bind_per_core(args.operator_listen, 1)?.remove(0);
        let records_url = engines::records_url(&args)?;
        let claim = claim_store(&args, &records_url).await?;
        let (records, objects) = engines::open(&args.data_dir, &records_url, &args.objects)?;
        let settings = Settings {
            max_bytes: args.max_blob_bytes,
            ..Settings::default()
        };
        let (secrets, master_keys_checked) = open_secrets(&args, &records).await?;
        let mut registry = Metrics::with_prefix("svcprovider");
        registry.register_collector(Box::new(attach.socket_count()));
        let operator = OperatorApi {
            app: AppState {
                blobs: Blobs::new(Arc::clone(&records), objects, settings),
                records,
                secrets: Arc::clone(&secrets) as Arc<_>,
                has_other_nodes: records_url != RecordsUrl::Embedded,
                memory: MemoryBudget::of_the_process(),
                metrics: metrics::Metrics::new(&mut registry),
            },
            secrets,
            token: OperatorToken::load_or_make(&args.operator_token_file())?,
        };
        Ok(Self {
            args,
            attach,
            admin_listener,
            operator_listener,
            operator,
            registry,
            claim,
            master_keys_checked,
        })
    }

    /// Runs until the shutdown, and then lets requests in flight end.
    ///
    /// # Errors
    /// When a part without which it cannot live has ended, or requests did not end in time.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let app = self.operator.app.clone();
        let metrics = &app.metrics;
        let admin = Admin::new(self.registry).unready_on(&shutdown);
        let health_check =
            |engine| HealthCheck::new(engine, admin.condition(engine), metrics.engine(engine));
        let (records, objects) = (health_check("records"), health_check("objects"));
        let tasks = Tasks::new(&shutdown);
        info!(
            socket = %self.args.socket.display(), operators = %self.args.operator_listen,
            admin = %self.args.admin_listen, records = ?self.args.records, "svcprovider serves"
        );
        let serving = admin::serve(self.admin_listener, admin, shutdown.clone());
        tasks.spawn("admin", Policy::EndsProcess, serving);
        if let Some(claim) = self.claim {
            tasks.spawn("claim", Policy::EndsProcess, claim.keep(shutdown.clone()));
        }
        if !self.master_keys_checked {
            let secrets = Arc::clone(&self.operator.secrets);
            let accept_lost = self.args.accept_lost_secrets;
            let checking = check_master_keys_until_known(secrets, accept_lost, shutdown.clone());
            tasks.spawn("master keys", Policy::EndsProcess, checking);
        }
        let keep = |name, work: BoxFuture<'static, ()>| {
            let ending = shutdown.clone();
            tasks.spawn(name, Policy::EndsProcess, async move {
                // What is kept doing may be cut off anywhere.
                tokio::select! {
                    () = work => {}
                    () = ending.cancelled() => {}
                }
            });
        };
        let (engine, blobs) = (Arc::clone(&app.records), app.blobs.clone());
        let records = records.run(async move || engine.check().await);
        keep("records", Box::pin(records));
        let objects = objects.run(async move || blobs.check().await);
        keep("objects", Box::pin(objects));
        keep("expired records", Box::pin(run_sweeper(app.clone())));
        keep("garbage", Box::pin(run_collector(app.clone())));
        let drain = self.args.drain;
        let (listener, operator) = (self.operator_listener, self.operator);
        let operators = operator::run(listener, operator, drain, shutdown.clone());
        tasks.spawn("operators", Policy::EndsProcess, operators);
        let functions = self.attach.run(app, shutdown.clone());
        tasks.spawn("functions", Policy::EndsProcess, functions);
        shutdown.cancelled().await;
        info!("ending; functions wait for the next svcprovider");
        let drained = tasks.drain(drain + Duration::from_secs(5)).await;
        shutdown.outcome()?;
        Ok(drained?)
    }
}

/// The secrets, and whether their master keys were seen to open them: the database may be away.
async fn open_secrets(
    args: &Args,
    records: &Arc<dyn Records>,
) -> Result<(Arc<Secrets>, bool), MasterKeysError> {
    let (path, accept_lost) = (args.master_key_file(), args.accept_lost_secrets);
    let keyring = master_keys(&path, args.create_master_key, accept_lost, &**records).await?;
    if path.starts_with(&args.data_dir) {
        warn!(path = %path.display(), "the master keys are beside the data that they open, and in every copy of it; move them out of there");
    }
    let secrets = Arc::new(Secrets::new(Arc::clone(records), keyring));
    let master_keys_checked = match check_master_keys(&secrets, accept_lost).await {
        Ok(()) => true,
        Err(MasterKeysError::Engine(error)) => {
            warn!(%error, "cannot see yet whether the master keys open what is stored");
            false
        }
        Err(error) => return Err(error),
    };
    Ok((secrets, master_keys_checked))
}

async fn check_master_keys(secrets: &Secrets, accept_lost: bool) -> Result<(), MasterKeysError> {
    match secrets.check_master_keys().await {
        Err(error @ MasterKeysError::OpensNothing { .. }) if accept_lost => {
            warn!(
                error = bismuth_base::chain(&error),
                "starting all the same, as told"
            );
            Ok(())
        }
        checked => checked,
    }
}

/// Asks until the engine answers, and ends the process if the master keys are not those of what is stored.
async fn check_master_keys_until_known(
    secrets: Arc<Secrets>,
    accept_lost: bool,
    shutdown: Shutdown,
) {
    let mut timer = tokio::time::interval(MASTER_KEY_CHECK_PERIOD);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let checked = async {
        loop {
            timer.tick().await;
            match check_master_keys(&secrets, accept_lost).await {
                Err(MasterKeysError::Engine(_)) => {}
                checked => return checked,
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        checked = checked => match checked {
            Ok(()) => shutdown.cancelled().await,
            Err(error) => shutdown.fail(bismuth_base::chain(&error)),
        },
    }
}

/// An embedded engine is one node's; shared ones need no claim.
async fn claim_store(args: &Args, records: &RecordsUrl) -> Result<Option<Claim>, StartError> {
    if *records != RecordsUrl::Embedded && args.objects != ObjectsUrl::Files {
        return Ok(None);
    }
    let tree = ZkTree::connect_lazy(&args.zookeeper.servers, ConnectOptions::default());
    let registry = Registry::new(Arc::new(tree), args.zookeeper.environment.clone());
    let claim = Claim::of(&args.data_dir, args.node_ip, registry)?;
    // Functions wait for us: what was ours is served while ZooKeeper is asked.
    if !claim.was_ours() {
        claim.make().await?;
    }
    Ok(Some(claim))
}

/// A data directory that others may enter was made by somebody who did not think of it.
fn restrict_permissions(path: &Path) -> Result<(), FileError> {
    let found = fs::metadata(path).map_err(failed(MAKE_DATA_DIR, path))?;
    let mut permissions = found.permissions();
    if permissions.mode() & 0o077 != 0 {
        warn!(path = %path.display(), mode = format!("{:o}", permissions.mode() & 0o7777), "the data directory was open to others; it is its owner's now");
        permissions.set_mode(0o700);
        fs::set_permissions(path, permissions).map_err(failed(MAKE_DATA_DIR, path))?;
    }
    Ok(())
}

/// What is below it is nobody else's.
fn create_private_dir(path: &Path) -> Result<(), FileError> {
    file::create_dir_all_durably(path).map_err(failed(MAKE_DATA_DIR, path))
}

async fn run_sweeper(app: AppState) {
    loop {
        match app.records.sweep(None, SWEEP_LIMIT).await {
            Ok(swept) => {
                app.metrics.expired(swept);
                if swept >= SWEEP_LIMIT.get() {
                    // There may be more.
                    continue;
                }
            }
            Err(error) => warn!(
                error = bismuth_base::chain(&error),
                "cannot remove records whose time has come"
            ),
        }
        tokio::time::sleep(SWEEP_PERIOD).await;
    }
}

async fn run_collector(app: AppState) {
    let counted = |collected: &Collected| {
        let left = collected.failed.as_ref().map_or(0, |(left, _)| *left);
        app.metrics.collected(collected.removed, left);
    };
    app.blobs.keep_collecting(counted).await;
}
