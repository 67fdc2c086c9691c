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
        let help = "Errors of our own by code";
        registry.register("problems", help, metrics.problems.clone());
        registry.register("retries", "Requests sent again", metrics.retries.clone());
        let help = "Connections opened to nodes";
        registry.register("node_connects", help, metrics.connects.clone());
        let help = "Requests whose answer has not ended";
        registry.register("requests_in_flight", help, metrics.in_flight.clone());
        let help = "Open client connections";
        registry.register("client_connections", help, metrics.connections.clone());
        let help = "Responses that broke off after their head";
        registry.register("responses_broken", help, metrics.broken.clone());
        let help = "Bytes of response bodies";
        registry.register("response_body_bytes", help, metrics.sent_bytes.clone());
        let help = "From a request's head to its response's";
        registry.register("time_to_head_seconds", help, metrics.to_head.clone());
        let help = "Functions in the routing table";
        registry.register("functions", help, metrics.functions.clone());
        let help = "Hostnames in the routing table";
        registry.register("routes", help, metrics.routes.clone());
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

    pub fn problem(&self, code: &'static str) {
        self.problems.get_or_create(&[("code", code)]).inc();
    }

    pub fn retry(&self) {
        self.retries.inc();
    }

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
