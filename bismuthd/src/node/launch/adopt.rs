//! Going on with a container that an earlier process started.

use std::sync::Arc;

use bismuth_sandbox::ids::IdRange;
use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::process::{Process, Watched};
use tracing::{info, warn};

use super::user::User;
use super::{LaunchError, Launcher, Running, blocking, ground};
use crate::logs::pump;
use crate::node::slot::{Live, Slot};
use crate::node::state_dir::SavedSlot;

impl Launcher {
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
        let stderr = pump.stderr_end().map_err(LaunchError::Watch)?;
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
}
