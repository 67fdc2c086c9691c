//! The writes that are attempted: derived from the seed and the number of the attempt, so that victim and model agree without talking.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use bismuth_store::records::{Change, Condition, Keyspace, RecordKey, Write};
use fastrand::Rng;

/// Tasks that change records, all of them the same ones.
pub const WRITERS: u64 = 32;
/// Tasks that change blobs: each its own, and all of them one more.
pub const UPLOADERS: u64 = 4;
/// Whose almost everything is.
pub const GROUP: &str = "group";
/// Whose one record of every set is.
pub const OTHER: &str = "other";
/// Values that are numbers and only grow are under keys that begin with it.
const COUNT: &str = "count-";
/// Sets of records that are only changed together.
pub const SETS: u64 = 4;
const KEYS: u64 = 12;
const COUNTERS: u64 = 3;
const BLOBS_EACH: u64 = 2;
/// In the year 2100: some records have an expiry, and none of them expires.
const FAR_AWAY_MS: u64 = 4_102_444_800_000;

/// Names one attempt; no other of a test has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    pub fn new(round: u64, task: u64, number: u64) -> Self {
        Self(round << 40 | task << 32 | number)
    }

    fn task(self) -> u64 {
        self.0 >> 32 & 0xff
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for Id {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// What an attempt does to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Put,
    Delete,
    Add(i64),
}

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
}

impl Plan {
    /// What an attempt does, all of it in one batch.
    pub fn effects(self, id: Id) -> Vec<(RecordKey, Effect)> {
        let mut rng = self.rng(id, "");
        if let Some(uploader) = id.task().checked_sub(WRITERS) {
            return vec![blob(&mut rng, uploader)];
        }
        let key = at(format!("key-{}", rng.u64(..KEYS)));
        match rng.u8(..10) {
            0..4 => vec![(key, Effect::Put)],
            4..6 => vec![(key, Effect::Delete)],
            6..8 => {
                let counter = at(format!("{COUNT}{}", rng.u64(..COUNTERS)));
                vec![(counter, Effect::Add(rng.i64(1..100)))]
            }
            _ => set(rng.u64(..SETS), rng.u8(..4) == 0),
        }
    }

    /// The batch that makes `effects` of records.
    pub fn batch(self, id: Id, effects: Vec<(RecordKey, Effect)>) -> Vec<Write> {
        let writes = effects.into_iter().map(|(record_key, effect)| {
            let change = self.change(id, &record_key, effect);
            Write::new(record_key, Condition::Always, change)
        });
        writes.collect()
    }

    fn change(self, id: Id, record_key: &RecordKey, effect: Effect) -> Change {
        let ttl_ms = None;
        match effect {
            Effect::Delete => Change::Delete,
            Effect::Add(delta) => Change::Add { delta, ttl_ms },
            Effect::Put => {
                let value = self.content(id, record_key);
                Change::Put {
                    charge: (record_key.key.len() + value.len()) as u64,
                    value: value.into(),
                    content_type: Some(content_type(id)),
                    ttl_ms: ttl_ms_of(id),
                }
            }
        }
    }

    /// What an attempt puts into a key.
    pub fn content(self, id: Id, record_key: &RecordKey) -> Vec<u8> {
        let mut rng = self.rng(id, &record_key.key);
        let longest = match (record_key.keyspace, rng.u8(..10)) {
            (_, 0) => 0,
            (Keyspace::Blob, 1..3) => 1 << 10,
            (Keyspace::Blob, 3..7) => 32 << 10,
            (Keyspace::Blob, _) => 400 << 10,
            // In its record.
            (_, 1..7) => 300,
            // Apart from it.
            (_, 7..9) => 5_000,
            (_, _) => 60_000,
        };
        let mut content = vec![0; rng.usize(..=longest)];
        rng.fill(&mut content);
        content
    }

    fn rng(self, id: Id, key: &str) -> Rng {
        let mixed = key.bytes().fold(self.seed ^ id.0, |mixed, byte| {
            mixed.wrapping_mul(31).wrapping_add(byte.into())
        });
        Rng::with_seed(mixed)
    }
}

/// Names the attempt in what it has put.
pub fn content_type(id: Id) -> String {
    format!("attempt/{id}")
}

/// The attempt that is named.
pub fn attempt_of(content_type: Option<&str>) -> Option<Id> {
    content_type?.strip_prefix("attempt/")?.parse().ok()
}

pub fn ttl_ms_of(id: Id) -> Option<u64> {
    id.0.is_multiple_of(3).then_some(FAR_AWAY_MS)
}

pub fn is_counter(record_key: &RecordKey) -> bool {
    record_key.key.starts_with(COUNT)
}

/// The records of a set that are put or not there, but all the same.
pub fn members(set: u64) -> [RecordKey; 3] {
    let at_other = RecordKey::new(OTHER, Keyspace::Kv, format!("set-{set}/b"));
    let [a, c] = ["a", "c"].map(|name| at(format!("set-{set}/{name}")));
    [a, at_other, c]
}

fn set(set: u64, delete: bool) -> Vec<(RecordKey, Effect)> {
    let effect = if delete { Effect::Delete } else { Effect::Put };
    let members = members(set)
        .into_iter()
        .map(|record_key| (record_key, effect));
    let count = (at(format!("{COUNT}set-{set}")), Effect::Add(1));
    members.chain([count]).collect()
}

fn blob(rng: &mut Rng, uploader: u64) -> (RecordKey, Effect) {
    let own = format!("blob-{uploader}-{}", rng.u64(..BLOBS_EACH));
    let (key, effect) = match rng.u8(..8) {
        0..2 => (own, Effect::Delete),
        // A deletion is not told its revision, so that nobody could say which was the last change of what many delete.
        2..4 => ("blob-of-all".into(), Effect::Put),
        _ => (own, Effect::Put),
    };
    (RecordKey::new(GROUP, Keyspace::Blob, key), effect)
}

fn at(key: String) -> RecordKey {
    RecordKey::new(GROUP, Keyspace::Kv, key)
}
