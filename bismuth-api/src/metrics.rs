//! Metrics of the API: calls, the election and rollouts.

use std::time::Duration;

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds. A call is a few round trips to ZooKeeper, and is given up after about one second.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// One kind of call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: String,
    route: String,
    status: u16,
}

/// The metrics of this process. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    calls: Family<Call, Counter>,
    seconds: Histogram,
    pub(crate) leader: Gauge,
    pub(crate) term: Gauge,
    pub(crate) election_blocked: Gauge,
    pub(crate) rollouts: Gauge,
    pub(crate) switched: Counter,
    pub(crate) released: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            calls: Family::default(),
            seconds: Histogram::new(BUCKETS),
            leader: Gauge::default(),
            term: Gauge::default(),
            election_blocked: Gauge::default(),
            rollouts: Gauge::default(),
            switched: Counter::default(),
            released: Counter::default(),
        };
        registry.register("calls", "Calls answered", metrics.calls.clone());
        let help = "Time from a call's head to its answer's";
        registry.register("call_seconds", help, metrics.seconds.clone());
        metrics.register_election(registry);
        let help = "Functions whose newest revision is being rolled out";
        registry.register("rollouts", help, metrics.rollouts.clone());
        let help = "Times that requests were switched to a newer revision";
        registry.register("rollout_switches", help, metrics.switched.clone());
        let help = "Slots of earlier revisions that were taken away";
        registry.register("rollout_releases", help, metrics.released.clone());
        metrics
    }

    fn register_election(&self, registry: &mut Registry) {
        registry.register(
            "leader",
            "1 while this replica leads, else 0",
            self.leader.clone(),
        );
        registry.register(
            "term",
            "The latest term that this replica led or followed in",
            self.term.clone(),
        );
        registry.register(
            "election_blocked",
            "1 while this replica cannot lead nor see another that does: /readyz says why",
            self.election_blocked.clone(),
        );
    }

    pub(crate) fn record_call(
        &self,
        method: &Method,
        route: &str,
        status: StatusCode,
        took: Duration,
    ) {
        let known = [
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::OPTIONS,
            Method::PATCH,
        ];
        let method = if known.contains(method) {
            method.as_str()
        } else {
            "other"
        };
        let call = Call {
            method: method.to_owned(),
            route: route.to_owned(),
            status: status.as_u16(),
        };
        self.calls.get_or_create(&call).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}
