//! Metrics. Clones share their counters; a request costs one atomic per counter.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bismuth_http::{End, Outcome};
use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 1];

/// From a warm answer on one machine to a slow start, in seconds.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0,
];

/// The frontend's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    by_class: Arc<[Counter; 5]>,
    problems: Family<Labels, Counter>,
    retries: Counter,
    connects: Counter,
    in_flight: Gauge,
    connections: Gauge,
    broken: Counter,
    sent_bytes: Counter<u64, AtomicU64>,
    to_head: Histogram,
    functions: Gauge,
    routes: Gauge,
}

impl Metrics {
    /// Registers everything in `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let responses = Family::<Labels, Counter>::default();
        let class = |class| responses.get_or_create(&[("class", class)]).clone();
        let metrics = Metrics {
            by_class: Arc::new(["1xx", "2xx", "3xx", "4xx", "5xx"].map(class)),
            problems: Family::default(),
            retries: Counter::default(),
            connects: Counter::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            broken: Counter::default(),
            sent_bytes: Counter::default(),
            to_head: Histogram::new(BUCKETS),
            functions: Gauge::default(),
            routes: Gauge::default(),
        };
        registry.register("responses", "Responses by status class", responses);
        registry.register(
            "problems",
            "Errors of our own by code",
            metrics.problems.clone(),
        );
        registry.register("retries", "Requests sent again", metrics.retries.clone());
        registry.register(
            "node_connects",
            "Connections opened to nodes",
            metrics.connects.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests whose answer has not ended",
            metrics.in_flight.clone(),
        );
        registry.register(
            "client_connections",
            "Open client connections",
            metrics.connections.clone(),
        );
        registry.register(
            "responses_broken",
            "Responses that broke off after their head",
            metrics.broken.clone(),
        );
        registry.register(
            "response_body_bytes",
            "Bytes of response bodies",
            metrics.sent_bytes.clone(),
        );
        registry.register(
            "time_to_head_seconds",
            "From a request's head to its response's",
            metrics.to_head.clone(),
        );
        registry.register(
            "functions",
            "Functions in the routing table",
            metrics.functions.clone(),
        );
        registry.register(
            "routes",
            "Hostnames in the routing table",
            metrics.routes.clone(),
        );
        metrics
    }

    /// A table was swapped in.
    pub fn table(&self, functions: usize, routes: usize) {
        self.functions.set(functions as i64);
        self.routes.set(routes as i64);
    }

    /// A client connected; the answer counts it until it is dropped.
    pub fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    /// A request came in; the answer counts it until it is dropped.
    pub fn request(&self) -> Counted {
        Counted::new(&self.in_flight)
    }

    /// A response's head is there.
    pub fn response(&self, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.by_class[class].inc();
        self.to_head.observe(took.as_secs_f64());
    }

    /// A response's body ended.
    pub fn ended(&self, end: End) {
        self.sent_bytes.inc_by(end.bytes);
        if end.outcome == Outcome::Broken {
            self.broken.inc();
        }
    }

    /// We answer with a problem.
    pub fn problem(&self, code: &'static str) {
        self.problems.get_or_create(&[("code", code)]).inc();
    }

    /// A request is sent again.
    pub fn retry(&self) {
        self.retries.inc();
    }

    /// A connection to a node is opened.
    pub fn connect(&self) {
        self.connects.inc();
    }
}

/// One of something, until dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
