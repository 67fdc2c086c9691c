//! The metrics of svcprovider, beside those of every daemon. Clones count together. What a request touches is made before it comes: one
//! atomic and one histogram; no label names a group, a function or a key.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// From a key in memory to an engine that has to be waited for, in seconds.
const BUCKETS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0,
];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Which HTTP API a request is for: the label `service`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Kv,
    Blob,
    Secret,
    /// None of these: `/`, and what there is not.
    Other,
    /// An operator's, about anything.
    Operator,
}

impl Api {
    const ALL: [Self; 5] = [
        Self::Kv,
        Self::Blob,
        Self::Secret,
        Self::Other,
        Self::Operator,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::Blob => "blob",
            Self::Secret => "secret",
            Self::Other => "other",
            Self::Operator => "operator",
        }
    }
}

/// What is counted.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// The members of two families, where they are found without a lock.
    apis: [Answered; Api::ALL.len()],
    problems: Family<Labels<1>, Counter>,
    broken: Counter,
    connections: Gauge,
    engines: Family<Labels<1>, Gauge>,
    expired: Counter,
    removed: Counter,
    left: Gauge,
}

#[derive(Debug)]
struct Answered {
    by_class: [Counter; CLASSES.len()],
    to_head: Histogram,
}

/// A metric that a registry shows.
fn shown<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Those that a registry shows.
    pub fn new(registry: &mut Registry) -> Self {
        let requests = Family::<Labels<2>, Counter>::default();
        let help = "Requests answered, by service and status class";
        let requests = shown(registry, "requests", help, requests);
        let times = Histograms::new_with_constructor(|| Histogram::new(BUCKETS));
        let help = "From a request's head to its answer's";
        let times = shown(registry, "time_to_head_seconds", help, times);
        let apis = Api::ALL.map(|api| {
            let service = ("service", api.name());
            let class = |class| requests.get_or_create(&[service, ("class", class)]).clone();
            Answered {
                by_class: CLASSES.map(class),
                to_head: times.get_or_create(&[service]).clone(),
            }
        });
        let help = "Errors told to functions and operators, by code";
        let problems = shown(registry, "problems", help, Family::default());
        let help = "Blobs that broke off after their head, because an engine did";
        let broken = shown(registry, "answers_broken", help, Counter::default());
        let help = "Open connections of functions";
        let connections = shown(registry, "connections", help, Gauge::default());
        let help = "Whether an engine answered when it was last asked";
        let engines = shown(registry, "engine_up", help, Family::default());
        let help = "Records removed because their time had come";
        let expired = shown(
            registry,
            "expired_records_removed",
            help,
            Counter::default(),
        );
        let help = "Objects removed because no blob had them";
        let removed = shown(registry, "objects_removed", help, Counter::default());
        let help = "Objects that no blob has, and that could not be removed at the last attempt";
        let left = shown(registry, "objects_left", help, Gauge::default());
        Self(Arc::new(Counts {
            apis,
            problems,
            broken,
            connections,
            engines,
            expired,
            removed,
            left,
        }))
    }

    /// The head of an answer is there.
    pub(crate) fn answered(&self, api: Api, status: StatusCode, took: Duration) {
        let answered = &self.0.apis[api as usize];
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        answered.by_class[class].inc();
        answered.to_head.observe(took.as_secs_f64());
    }

    /// An answer is a problem.
    pub(crate) fn problem(&self, code: &'static str) {
        self.0.problems.get_or_create(&[("code", code)]).inc();
    }

    /// A blob broke off.
    pub(crate) fn broken(&self) {
        self.0.broken.inc();
    }

    /// A function connected; it is counted until the answer is dropped.
    pub(crate) fn connection(&self) -> ConnectionCountGuard {
        self.0.connections.inc();
        ConnectionCountGuard(self.0.connections.clone())
    }

    /// What says whether an engine is up.
    pub(crate) fn engine(&self, name: &'static str) -> Gauge {
        self.0.engines.get_or_create(&[("engine", name)]).clone()
    }

    /// Records whose time had come were removed.
    pub(crate) fn expired(&self, count: usize) {
        self.0.expired.inc_by(count as u64);
    }

    /// Objects were removed, or were to be.
    pub(crate) fn collected(&self, removed: usize, left: usize) {
        self.0.removed.inc_by(removed as u64);
        self.0.left.set(i64::try_from(left).unwrap_or(i64::MAX));
    }
}

/// A connection, until dropped.
#[derive(Debug)]
pub(crate) struct ConnectionCountGuard(Gauge);

impl Drop for ConnectionCountGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
