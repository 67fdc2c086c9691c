//! What the services count, beside what every daemon does.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::attach::DoorsHandle;

#[derive(Debug)]
struct Doors(DoorsHandle);

impl Collector for Doors {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let count = ConstGauge::new(i64::try_from(self.0.count()).unwrap_or(i64::MAX));
        let metric = encoder.encode_descriptor(
            "containers",
            "Containers whose sockets are held",
            None,
            count.metric_type(),
        )?;
        count.encode(metric)
    }
}

/// Adds them to a registry.
pub fn register(registry: &mut Registry, doors: DoorsHandle) {
    registry.register_collector(Box::new(Doors(doors)));
}
