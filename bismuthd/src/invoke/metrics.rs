//! Prometheus counters of the data path.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Whether a request found its container running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum StartKind {
    /// It was running.
    Warm,
    /// It was started for it.
    Cold,
}

impl StartKind {
    /// The mark in `Server-Timing`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// Labels of a request that reached a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnsweredLabels {
    pub found: StartKind,
}

/// Labels of a request that did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    pub code: &'static str,
}

/// Counters of the data path; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    answered: Family<AnsweredLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
}

impl Metrics {
    /// Counters that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Requests answered by a function's program";
        registry.register("requests_answered", help, metrics.answered.clone());
        let help = "Requests answered by bismuthd itself";
        registry.register("requests_refused", help, metrics.refused.clone());
        metrics
    }

    pub fn answered(&self, found: StartKind) {
        self.answered.get_or_create(&AnsweredLabels { found }).inc();
    }

    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&RefusedLabels { code }).inc();
    }
}
