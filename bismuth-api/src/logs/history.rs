//! Merges the existing logs of all instances by time.
//!
//! ```text
//!  node 1 ─► head ─┐
//!  node 2 ─► head ─┼─► the oldest head ─► out        one record per source is held, however long the logs are
//!  node 3 ─► head ─┘
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};

use bismuth_base::chain;
use futures_util::future::join_all;

use super::client::{LogClient, LogError, LogOptions, Records};
use super::record::{Instance, Record};

/// Logs read at a time. Each is a connection, and a node reads 128 logs at a time at most.
pub(super) const MAX_SOURCES: usize = 128;
/// Bytes of records kept while the newest lines of several logs are looked for.
const TAIL_BYTES: usize = 8 << 20;

/// A position in the log of one container from which it can be read on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The time of the last record, and how many of this very time there were. One write of a program is
    /// one point in time, whatever number of lines it has.
    last: Option<(String, u32)>,
    /// How many of them are still to be skipped because they were read before.
    repeated: u32,
}

impl Position {
    /// The `since` to ask for, of a log that was read before.
    pub(super) fn resume(&mut self) -> Option<String> {
        let (time, count) = self.last.as_ref()?;
        self.repeated = *count;
        Some(time.clone())
    }

    /// Goes past a record; `false` if it was read before.
    pub(super) fn pass(&mut self, record: &Record) -> bool {
        match &mut self.last {
            Some((time, _)) if *time == record.time && self.repeated > 0 => {
                self.repeated -= 1;
                return false;
            }
            Some((time, count)) if *time == record.time => *count += 1,
            last => *last = Some((record.time.clone(), 1)),
        }
        self.repeated = 0;
        true
    }
}

/// The merged past of some instances.
pub(super) struct History {
    sources: Vec<(Instance, Option<Records>)>,
    /// The next record of each, by time and source.
    heads: BTreeMap<(String, usize), Record>,
    /// Whose next record is not among the heads.
    taken: Option<usize>,
    positions: HashMap<Instance, Position>,
}

impl History {
    /// Opens all logs. Those that cannot be opened are named in the second part.
    pub(super) async fn open(
        client: LogClient,
        instances: &[Instance],
        options: &LogOptions,
    ) -> (Self, Vec<(Instance, LogError)>) {
        let opening = instances.iter().map(|instance| async {
            let mut records = client.open(*instance, options).await?;
            let first = match &mut records {
                Some(records) => records.next().await?,
                None => None,
            };
            Ok::<_, LogError>((records, first))
        });
        let mut history = Self {
            sources: Vec::new(),
            heads: BTreeMap::new(),
            taken: None,
            positions: HashMap::new(),
        };
        let mut missing = Vec::new();
        for (instance, opened) in instances.iter().zip(join_all(opening).await) {
            match opened {
                Ok((records, first)) => {
                    let source = history.sources.len();
                    history.sources.push((*instance, records));
                    let head = first.map(|record| ((record.time.clone(), source), record));
                    history.heads.extend(head);
                }
                Err(error) => missing.push((*instance, error)),
            }
        }
        (history, missing)
    }

    /// The next record in the order of time; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<(Instance, Record)>, LogError> {
        if let Some(source) = self.taken.take()
            && let Some(records) = &mut self.sources[source].1
            && let Some(record) = records.next().await?
        {
            self.heads.insert((record.time.clone(), source), record);
        }
        let Some(((_, source), record)) = self.heads.pop_first() else {
            return Ok(None);
        };
        self.taken = Some(source);
        let instance = self.sources[source].0;
        self.positions.entry(instance).or_default().pass(&record);
        Ok(Some((instance, record)))
    }

    /// The newest `lines` of all that is left, or as many as fit into memory.
    pub(super) async fn newest(
        &mut self,
        lines: usize,
    ) -> Result<VecDeque<(Instance, Record)>, LogError> {
        let (mut kept, mut bytes) = (VecDeque::new(), 0);
        while let Some((instance, record)) = self.next().await? {
            bytes += record.content.len();
            kept.push_back((instance, record));
            while kept.len() > lines || bytes > TAIL_BYTES {
                let Some((_, oldest)) = kept.pop_front() else {
                    break;
                };
                bytes -= oldest.content.len();
            }
        }
        Ok(kept)
    }

    /// How far each log was read.
    pub(super) fn into_positions(self) -> HashMap<Instance, Position> {
        self.positions
    }
}

/// Names what is missing, in a form that fits a header.
pub(super) fn name_missing(missing: &[(Instance, LogError)]) -> String {
    let named = missing.iter().map(|(instance, error)| {
        format!(
            "{}/{}: {}",
            instance.ip,
            instance.container_id,
            chain(error)
        )
    });
    let text = named.collect::<Vec<_>>().join("; ");
    text.chars()
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .take(1024)
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(second: u8, content: &'static str) -> Record {
        Record {
            time: format!("2026-01-02T03:04:{second:02}.000000000Z"),
            stream: "stdout",
            full: true,
            content: Bytes::from_static(content.as_bytes()),
        }
    }

    #[test]
    fn a_log_that_is_read_on_repeats_nothing_and_misses_nothing() {
        let log = [
            record(1, "a"),
            record(2, "b"),
            record(2, "c"),
            record(2, "d"),
            record(3, "e"),
        ];
        for read_before in 0..=log.len() {
            let mut position = Position::default();
            let mut seen: Vec<&Record> = log[..read_before]
                .iter()
                .filter(|r| position.pass(r))
                .collect();
            let since = position.resume();
            let again = log
                .iter()
                .filter(|r| since.as_ref().is_none_or(|since| r.time >= *since));
            seen.extend(again.filter(|r| position.pass(r)));
            assert_eq!(
                seen,
                log.iter().collect::<Vec<_>>(),
                "after {read_before} records"
            );
        }
    }

    #[test]
    fn lines_that_rotated_away_meanwhile_do_not_hide_new_ones() {
        let mut position = Position::default();
        for record in [record(2, "a"), record(2, "b")] {
            assert!(position.pass(&record));
        }
        position.resume();
        assert!(
            position.pass(&record(3, "c")),
            "the two of second 2 are gone"
        );
        assert!(position.pass(&record(3, "d")));
    }
}
