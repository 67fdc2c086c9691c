//! Allocates a range of host user ids for each function, for its user namespace.
//!
//! ```text
//!   inside the container      0 ............ 65535
//!                             │ + host_start
//!   on the host      1_000_131_072 .... 1_000_196_607      (function C: third range of the pool)
//! ```
//!
//! Two functions never share a host id, so a process that breaks out of its namespaces still owns
//! nothing of its neighbour. The allocator is pure; keeping its assignments on disk is the node's
//! business.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Host ids that stand for the ids `0..size` inside a user namespace, users and groups alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IdRange {
    /// The host id of the container's root.
    pub host_start: u32,
    /// How many ids there are.
    pub size: u32,
}

impl IdRange {
    /// The size of every range that an [`IdPool`] gives out: all ids that a classic image can
    /// name, `nobody` (65534) included.
    pub const SIZE: u32 = 65_536;

    /// The host id of an id inside the container, or `None` if the range does not reach it.
    pub fn host_id(&self, inside: u32) -> Option<u32> {
        (inside < self.size)
            .then(|| self.host_start.checked_add(inside))
            .flatten()
    }
}

/// Where ranges come from: `count` ranges of [`IdRange::SIZE`] ids from `base` up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdPool {
    base: u32,
    count: u32,
}

/// Why a pool or an assignment is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not of the form `first:length`.
    #[error("id pool {text:?} is not of the form FIRST:LENGTH")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// A pool that is empty, holds host root, or reaches the id that means "unchanged".
    #[error("id pool from {base} with {count} ranges of {size} ids does not lie within 65536..4294967295", size = IdRange::SIZE)]
    PoolOutOfBounds {
        /// First host id.
        base: u32,
        /// Number of ranges.
        count: u32,
    },
    /// Every range is in use.
    #[error("all {count} id ranges of the pool are in use")]
    Exhausted {
        /// Number of ranges.
        count: u32,
    },
    /// A remembered range that is not one of this pool's (the pool was reconfigured).
    #[error("id range {} of {} ids is not one of the pool's", range.host_start, range.size)]
    NotOfThisPool {
        /// The range.
        range: IdRange,
    },
    /// A remembered range that someone else has.
    #[error("id range {} is assigned twice", range.host_start)]
    AssignedTwice {
        /// The range.
        range: IdRange,
    },
}

impl IdPool {
    /// A pool of `count` ranges from host id `base` up.
    ///
    /// # Errors
    /// [`Error::PoolOutOfBounds`] if it is empty, reaches below 65536 (ids of the host's own
    /// users), or holds 4294967295, which system calls read as "leave unchanged".
    pub fn new(base: u32, count: u32) -> Result<Self, Error> {
        let end = u64::from(base) + u64::from(count) * u64::from(IdRange::SIZE);
        if count == 0 || base < IdRange::SIZE || end > u64::from(u32::MAX) {
            return Err(Error::PoolOutOfBounds { base, count });
        }
        Ok(Self { base, count })
    }

    fn range(&self, index: u32) -> IdRange {
        IdRange {
            host_start: self.base + index * IdRange::SIZE,
            size: IdRange::SIZE,
        }
    }

    fn index(&self, range: IdRange) -> Option<u32> {
        let offset = range.host_start.checked_sub(self.base)?;
        let index = offset / IdRange::SIZE;
        let ours = range.size == IdRange::SIZE
            && offset.is_multiple_of(IdRange::SIZE)
            && index < self.count;
        ours.then_some(index)
    }
}

impl FromStr for IdPool {
    type Err = Error;

    /// Reads `FIRST:LENGTH`, the last two fields of a line of subuid(5).
    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || Error::Malformed {
            text: text.to_owned(),
        };
        let (base, length) = text.split_once(':').ok_or_else(malformed)?;
        let base = base.parse().map_err(|_| malformed())?;
        let length: u32 = length.parse().map_err(|_| malformed())?;
        Self::new(base, length / IdRange::SIZE)
    }
}

/// Gives each key (a function) a range of its own.
///
/// Ranges are given out round the pool, so that a released one rests as long as possible before
/// somebody else gets it.
#[derive(Debug, Clone)]
pub struct IdAllocator<K> {
    pool: IdPool,
    assigned: BTreeMap<K, IdRange>,
    taken: BTreeSet<u32>,
    next: u32,
}

impl<K: Ord> IdAllocator<K> {
    /// An allocator with every range free.
    pub fn new(pool: IdPool) -> Self {
        Self {
            pool,
            assigned: BTreeMap::new(),
            taken: BTreeSet::new(),
            next: 0,
        }
    }

    /// The range of `key`: the one it has, or a free one.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if none is free.
    pub fn allocate(&mut self, key: K) -> Result<IdRange, Error> {
        if let Some(range) = self.assigned.get(&key) {
            return Ok(*range);
        }
        let count = self.pool.count;
        let index = (self.next..count)
            .chain(0..self.next)
            .find(|index| !self.taken.contains(index))
            .ok_or(Error::Exhausted { count })?;
        self.take(key, index);
        Ok(self.pool.range(index))
    }

    /// Gives `key` a range that it is known to have: from the node's own state, or from a
    /// container found running.
    ///
    /// # Errors
    /// [`Error::NotOfThisPool`], or [`Error::AssignedTwice`] if another key has the range or this
    /// key has another range; nothing changes then.
    pub fn reserve(&mut self, key: K, range: IdRange) -> Result<(), Error> {
        if let Some(present) = self.assigned.get(&key) {
            return if *present == range {
                Ok(())
            } else {
                Err(Error::AssignedTwice { range })
            };
        }
        let index = self
            .pool
            .index(range)
            .ok_or(Error::NotOfThisPool { range })?;
        if self.taken.contains(&index) {
            return Err(Error::AssignedTwice { range });
        }
        self.take(key, index);
        Ok(())
    }

    /// Frees the range of `key`. The caller knows that nothing runs in it any more.
    pub fn release(&mut self, key: &K) -> Option<IdRange> {
        let range = self.assigned.remove(key)?;
        if let Some(index) = self.pool.index(range) {
            self.taken.remove(&index);
        }
        Some(range)
    }

    fn take(&mut self, key: K, index: u32) {
        self.assigned.insert(key, self.pool.range(index));
        self.taken.insert(index);
        self.next = (index + 1) % self.pool.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn overlap(a: &IdRange, b: &IdRange) -> bool {
        let end = |range: &IdRange| u64::from(range.host_start) + u64::from(range.size);
        u64::from(a.host_start) < end(b) && u64::from(b.host_start) < end(a)
    }

    #[test]
    fn a_function_keeps_its_range() {
        let mut ids = IdAllocator::new(IdPool::new(1_000_000_000, 2).expect("in bounds"));
        let first = ids.allocate("a").expect("free");
        assert_eq!(ids.allocate("a"), Ok(first));
        assert_ne!(ids.allocate("b"), Ok(first));
        assert_eq!(first.host_id(0), Some(1_000_000_000));
        assert_eq!(first.host_id(65_536), None);
    }

    #[test]
    fn a_released_range_is_the_last_to_be_given_again() {
        let pool = IdPool::new(100_000, 3).expect("in bounds");
        let mut ids = IdAllocator::new(pool);
        let first = ids.allocate(1).expect("free");
        ids.release(&1);
        assert_ne!(ids.allocate(2), Ok(first));
        assert_ne!(ids.allocate(3), Ok(first));
        assert_eq!(ids.allocate(4), Ok(first));
        assert_eq!(ids.allocate(5), Err(Error::Exhausted { count: 3 }));
    }

    #[test]
    fn remembered_ranges_are_reserved_and_contradictions_refused() {
        let pool = IdPool::new(1_000_000_000, 2).expect("in bounds");
        let mut before = IdAllocator::new(pool);
        before.allocate("a".to_owned()).expect("free");
        before.allocate("b".to_owned()).expect("free");
        let kept = serde_json::to_string(&before.assigned).expect("plain data");

        let kept: BTreeMap<String, IdRange> = serde_json::from_str(&kept).expect("plain data");
        let mut after = IdAllocator::new(pool);
        for (key, range) in kept.clone() {
            after.reserve(key, range).expect("as it was");
        }
        assert_eq!(after.assigned, before.assigned);

        let range = kept["a"];
        assert_eq!(
            after.reserve("c".to_owned(), range),
            Err(Error::AssignedTwice { range })
        );
        let foreign = IdRange {
            host_start: 5,
            size: 10,
        };
        assert_eq!(
            after.reserve("c".to_owned(), foreign),
            Err(Error::NotOfThisPool { range: foreign })
        );
    }

    #[test]
    fn a_pool_is_read_as_from_subuid() {
        let pool: IdPool = "1000000000:131072".parse().expect("well-formed");
        assert_eq!(pool, IdPool::new(1_000_000_000, 2).expect("in bounds"));
        for bad in [
            "",
            "1",
            "a:b",
            "0:131072",
            "1000000000:1",
            "4294901760:65536",
        ] {
            assert!(bad.parse::<IdPool>().is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn ranges_never_overlap(steps in proptest::collection::vec((0u8..20, any::<bool>()), 0..200)) {
            let mut ids = IdAllocator::new(IdPool::new(70_000, 12).expect("in bounds"));
            for (key, keep) in steps {
                if keep { let _ = ids.allocate(key); } else { ids.release(&key); }
                let ranges: Vec<_> = ids.assigned.values().collect();
                for (i, a) in ranges.iter().enumerate() {
                    prop_assert!(ranges[i + 1..].iter().all(|b| !overlap(a, b)));
                }
            }
        }
    }
}
