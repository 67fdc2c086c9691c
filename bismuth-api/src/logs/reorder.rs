//! Reorder buffer: sorts live records by time, within a window.
//!
//! Nodes look at their files ten times a second, so a record arrives up to a tenth of a second late.
//! Each is held for [`WINDOW`] and then goes out, after all that are held and older. Nothing is held
//! longer, whatever the clocks of other nodes say.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::record::{Instance, Record};

/// Twice a node's interval and some.
const WINDOW: Duration = Duration::from_millis(250);
/// Records held at most; then the oldest go out early. At 16 KiB each, 16 MiB.
const CAPACITY: usize = 1024;

/// Live records on their way out.
#[derive(Debug, Default)]
pub(super) struct ReorderBuffer {
    /// By time, and by arrival where that is equal.
    held: BTreeMap<(String, u64), (Instant, Instance, Record)>,
    /// When the one held longest arrived.
    since: Option<Instant>,
    arrived: u64,
}

impl ReorderBuffer {
    pub(super) fn push(&mut self, now: Instant, instance: Instance, record: Record) {
        self.held
            .insert((record.time.clone(), self.arrived), (now, instance, record));
        self.since.get_or_insert(now);
        self.arrived += 1;
    }

    /// When the next one is due; `None` if nothing is held.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.held.len() >= CAPACITY {
            self.since
        } else {
            self.since.map(|since| since + WINDOW)
        }
    }

    /// All that are due, in the order of time.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(Instance, Record)> {
        let newest_due = self
            .held
            .iter()
            .rev()
            .find(|(_, (arrived, ..))| *arrived + WINDOW <= now);
        let newest_due = newest_due.map(|(key, _)| key.clone());
        let mut out = Vec::new();
        while let Some(first) = self.held.first_entry() {
            // Those that came later and are older go out before it.
            let due = newest_due
                .as_ref()
                .is_some_and(|newest| first.key() <= newest);
            if !due && self.held.len() < CAPACITY {
                break;
            }
            out.extend(
                self.held
                    .pop_first()
                    .map(|(_, (_, instance, record))| (instance, record)),
            );
        }
        self.since = self.held.values().map(|(arrived, ..)| *arrived).min();
        out
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bismuth_model::ContainerId;
    use bytes::Bytes;

    use super::*;

    const A: Instance = Instance {
        ip: Ipv4Addr::LOCALHOST,
        container_id: ContainerId::from_bytes([1; 16]),
    };

    fn record(second: usize) -> Record {
        Record {
            time: format!("2026-01-02T03:{second:05}"),
            stream: "stdout",
            full: true,
            content: Bytes::new(),
        }
    }

    fn seconds(out: &[(Instance, Record)]) -> Vec<String> {
        out.iter()
            .map(|(_, record)| record.time[14..].to_owned())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn records_that_arrive_late_go_out_in_order() {
        let (mut reorder, start) = (ReorderBuffer::default(), Instant::now());
        assert_eq!(reorder.due(), None);
        reorder.push(start, A, record(5));
        reorder.push(start + WINDOW / 2, A, record(3));
        assert_eq!(reorder.due(), Some(start + WINDOW));
        assert!(reorder.take_due(start + WINDOW / 2).is_empty());
        assert_eq!(
            seconds(&reorder.take_due(start + WINDOW)),
            ["00003", "00005"]
        );
        assert_eq!(reorder.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_record_waits_for_its_own_time() {
        let (mut reorder, start) = (ReorderBuffer::default(), Instant::now());
        reorder.push(start, A, record(1));
        reorder.push(start + WINDOW / 2, A, record(2));
        assert_eq!(seconds(&reorder.take_due(start + WINDOW)), ["00001"]);
        assert_eq!(reorder.due(), Some(start + WINDOW / 2 + WINDOW));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_held_than_fit() {
        let (mut reorder, start) = (ReorderBuffer::default(), Instant::now());
        for second in 0..=CAPACITY {
            reorder.push(start, A, record(second));
        }
        assert_eq!(reorder.due(), Some(start));
        assert_eq!(seconds(&reorder.take_due(start)), ["00000", "00001"]);
    }
}
