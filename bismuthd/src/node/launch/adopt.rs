//! Adopts a running container that an earlier process started.

use std::sync::Arc;
use std::time::Duration;

use bismuth_base::now_ms;
use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::process::{Process, WatchedProcess};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::readiness::Wait;
use super::start::Container;
use super::user::User;
use super::{LaunchError, Launcher, RunningContainer, blocking, sandbox};
use crate::logs::copier;
use crate::node::slot::{ContainerEndpoint, Slot};
use crate::node::state_dir::{self, SavedSlot};
use crate::svcprovider::SecretEnv;

impl Launcher {
    /// Goes on with a container that an earlier process started; `None` if it does not run as it
    /// should, and then it is taken down.
    ///
    /// One that had not answered yet when the earlier process ended is waited for as long as it has left.
    pub async fn adopt(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        saved: &SavedSlot,
        cancelled: &CancellationToken,
    ) -> Option<RunningContainer> {
        self.restrict_dir(slot, saved).await;
        match self.try_adopt(slot, saved, cancelled).await {
            Ok(Some(running)) => Some(running),
            Ok(None) => {
                self.teardown(slot.container_id).await;
                None
            }
            Err(error) => {
                warn!(container = %slot.container_id, error = bismuth_base::chain(&error), "cannot adopt a container, it is started again");
                self.teardown(slot.container_id).await;
                None
            }
        }
    }

    /// Earlier versions let every local user into a container's directory.
    async fn restrict_dir(&self, slot: &Slot, saved: &SavedSlot) {
        let (dir, ids) = (
            self.state.container_dir(slot.container_id),
            saved.id_range(),
        );
        let restricted = blocking(move || Ok(state_dir::make_container_dir(&dir, ids)?));
        if let Err(error) = restricted.await {
            warn!(container = %slot.container_id, error = bismuth_base::chain(&error), "cannot restrict the directory of a container");
        }
    }

    async fn try_adopt(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        saved: &SavedSlot,
        cancelled: &CancellationToken,
    ) -> Result<Option<RunningContainer>, LaunchError> {
        let Some(run) = &saved.run else {
            return Ok(None);
        };
        if !run.proven && !slot.definition.secrets.is_empty() {
            // It may still wait for its secrets, which only whoever started it had.
            return Ok(None);
        }
        let Some(process) = Process::adopt(&run.identity()).map_err(LaunchError::Process)? else {
            return Ok(None);
        };
        let process = WatchedProcess::new(process).map_err(LaunchError::Watch)?;
        let dir = self.state.container_dir(slot.container_id);
        let log_dir = self.state.log_dir(slot.container_id);
        let user = User {
            uid: run.user.0,
            gid: run.user.1,
            groups: run.groups.clone(),
            home: String::new(),
        };
        let owner = sandbox::host_owner(saved.id_range(), &user);
        let limits = self.config.log_limits;
        let (namespaces, copier) = blocking(move || {
            let namespaces = Namespaces::open(&dir).map_err(LaunchError::Namespaces)?;
            let copier = copier::open(&dir, owner, &log_dir, limits)?;
            Ok((namespaces, copier))
        })
        .await?;
        let stderr = copier.stderr_fifo().map_err(LaunchError::Watch)?;
        let secrets = (!run.init_has_variables).then(|| {
            let group = slot.definition.service_group(slot.function_id);
            let source = self.config.secrets.clone();
            SecretEnv::new(source, group, &slot.definition.secrets)
        });
        let target = self.target(slot, run.program.clone(), &user, stderr, secrets);
        self.logs.spawn(slot.container_id, copier);
        if !run.proven {
            let ran = Duration::from_millis(now_ms().saturating_sub(run.started_ms));
            let bound = Duration::from_millis(slot.definition.startup_timeout_ms);
            let left = bound.saturating_sub(ran);
            let wait = Wait {
                bound: left,
                delivery: None,
                cancelled,
            };
            let ready = self.wait_until_ready(slot, &namespaces, &process, wait);
            let _connection = ready.await?;
        }
        info!(container = %slot.container_id, pid = run.pid, "adopted");
        Ok(Some(RunningContainer {
            endpoint: Arc::new(ContainerEndpoint::new(
                namespaces,
                target,
                run.image_digest.clone(),
                None,
            )),
            process,
            started_ms: run.started_ms,
            container: Container {
                launcher: Arc::clone(self),
                slot: Arc::clone(slot),
            },
        }))
    }
}
