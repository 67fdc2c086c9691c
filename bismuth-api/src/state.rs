//! The state that handlers share, and the time limit on their calls to ZooKeeper.

use std::sync::Arc;
use std::time::Duration;

use bismuth_daemon::Shutdown;
use bismuth_model::FunctionId;
use bismuth_registry::{Error, Function, Registry};
use tokio::time::timeout;

use crate::logs::client::LogClient;
use crate::metrics::Metrics;
use crate::origin_check::OriginCheck;
use crate::problem::Problem;
use crate::scheduler::Scheduler;
use crate::svcprovider::SvcproviderClient;

/// What the handlers work with. Clones are the same.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) registry: Registry,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) logs: LogClient,
    pub(crate) svcprovider: SvcproviderClient,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    /// Which hosts and origins are refused.
    pub(crate) origin_check: Arc<OriginCheck>,
    /// How long ZooKeeper may take over one call.
    pub(crate) answer_within: Duration,
}

impl AppState {
    /// Reads something from the registry, within the bound.
    pub(crate) async fn read<T>(
        &self,
        act: &str,
        work: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        match timeout(self.answer_within, work).await {
            Ok(result) => result,
            Err(_) => Err(Problem::unavailable(self.timeout_detail(act))),
        }
    }

    /// Changes something in the registry, within the bound.
    pub(crate) async fn write<T>(
        &self,
        act: &str,
        work: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        match timeout(self.answer_within, work).await {
            Ok(result) => result,
            Err(_) => Err(Problem::unknown_outcome(format!(
                "{}; the change was made or was not: look before you try again",
                self.timeout_detail(act)
            ))),
        }
    }

    /// The function, which has to exist. Not bounded: for use in [`AppState::read`] and [`AppState::write`].
    pub(crate) async fn function(&self, id: FunctionId) -> Result<Function, Problem> {
        let function = self.registry.function(id).await?;
        function.ok_or_else(|| Error::FunctionUnknown { id }.into())
    }

    fn timeout_detail(&self, act: &str) -> String {
        format!(
            "{act}: ZooKeeper did not answer within {} ms",
            self.answer_within.as_millis()
        )
    }
}
