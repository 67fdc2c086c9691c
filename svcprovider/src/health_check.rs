//! Health check: asks periodically whether an engine answers: for `/readyz`, the metrics, and the log, which gets changes only.

use std::time::Duration;

use bismuth_daemon::Condition;
use bismuth_store::records::EngineError;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

/// How often an engine is asked.
const CHECK: Duration = Duration::from_secs(2);

/// The health check of one engine.
#[derive(Debug)]
pub(crate) struct HealthCheck {
    engine: &'static str,
    ready: Condition,
    up: Gauge,
    was_up: Option<bool>,
}

impl HealthCheck {
    /// Of `engine`, which nothing is known of yet.
    pub(crate) fn new(engine: &'static str, ready: Condition, up: Gauge) -> Self {
        Self {
            engine,
            ready,
            up,
            was_up: None,
        }
    }

    /// Asks with `check`, again and again, for ever.
    pub(crate) async fn run(mut self, check: impl AsyncFn() -> Result<(), EngineError>) {
        let mut timer = tokio::time::interval(CHECK);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let checked = check().await;
            self.record(checked);
        }
    }

    fn record(&mut self, checked: Result<(), EngineError>) {
        let is_up = checked.is_ok();
        let has_changed = self.was_up.replace(is_up) != Some(is_up);
        self.up.set(i64::from(is_up));
        match checked {
            Ok(()) => {
                self.ready.met();
                if has_changed {
                    info!(engine = self.engine, "an engine answers");
                }
            }
            Err(error) => {
                if has_changed {
                    warn!(engine = self.engine, %error, "an engine does not answer");
                }
                self.ready.unmet(error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bismuth_daemon::Admin;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn each_engine_has_its_own_condition_and_gauge() {
        let admin = Admin::new(Registry::default());
        let health_check = |name| {
            let up = Gauge::default();
            (
                HealthCheck::new(name, admin.condition(name), up.clone()),
                up,
            )
        };
        let ((mut records, records_up), (mut objects, objects_up)) =
            (health_check("records"), health_check("objects"));
        assert_eq!(admin.unmet().len(), 2);
        records.record(Ok(()));
        objects.record(Err(EngineError::Unavailable {
            engine: "the bucket",
            reason: "it sleeps".to_owned(),
        }));
        let away = "the bucket does not answer: it sleeps".to_owned();
        assert_eq!(admin.unmet(), [("objects".to_owned(), away)]);
        assert_eq!((records_up.get(), objects_up.get()), (1, 0));
        objects.record(Ok(()));
        assert!(admin.unmet().is_empty());
        assert_eq!(objects_up.get(), 1);
    }
}
