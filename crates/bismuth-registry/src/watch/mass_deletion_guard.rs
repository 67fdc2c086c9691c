//! Mass-deletion guard: keeps entries when most disappear at once, until a later full listing confirms it.
//!
//! That is more often a fault than an intention.
//!
//! ```text
//!  known ──┐
//!          ├─ entries_to_keep ─► few gone:  none, deleted at once
//!  listed ─┘                └─► most gone: kept until a whole listing, made a window later, misses them still
//! ```
//!
//! Pure: time is an argument. "Most" is more than half of what was known at the start of the window, counting
//! what went in several small steps and not what came within it. Nothing is held back where little is known, so that deleting
//! two of three functions just works.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// How fast is sudden, and how long what is gone must stay gone before it is believed.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// Below this many entries nothing is held back: half of it is within what one person deletes by hand, and a
/// fault that hits so little is repaired by hand as fast.
pub(crate) const FLOOR: usize = 16;

/// How the entries were read: by a full list, or singly after a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Everything was listed, beginning at this time.
    Listing(Instant),
    /// Single entries were read again.
    Hint,
}

/// Decides which missing entries of one kind are held back.
#[derive(Debug)]
pub(crate) struct MassDeletionGuard<K> {
    /// How many were let go, and when; nothing older than the window.
    gone: VecDeque<(Instant, usize)>,
    /// Since when the entries that are held back are missing.
    held: HashMap<K, Instant>,
}

impl<K> Default for MassDeletionGuard<K> {
    fn default() -> Self {
        Self {
            gone: VecDeque::new(),
            held: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash + Clone> MassDeletionGuard<K> {
    /// Decides about `missing`, the entries that were known and are not in the new snapshot; `known` is how many
    /// were known, those that are missing among them. Answers which of the missing are to be kept.
    pub(crate) fn entries_to_keep(
        &mut self,
        now: Instant,
        source: Source,
        known: usize,
        missing: Vec<K>,
    ) -> Vec<K> {
        self.drop_before_window(now);
        let since: HashMap<K, Instant> = missing
            .into_iter()
            .map(|key| {
                let since = self.held.get(&key).copied().unwrap_or(now);
                (key, since)
            })
            .collect();
        // What came back is not missing any more; what was confirmed is believed and no longer counted.
        let (confirmed, unconfirmed): (Vec<_>, Vec<_>) = since
            .into_iter()
            .partition(|(_, since)| is_confirmed(*since, source));
        let known = known - confirmed.len();
        if self.is_sudden(known, unconfirmed.len()) {
            self.held = unconfirmed.into_iter().collect();
            return self.held.keys().cloned().collect();
        }
        self.held.clear();
        if !unconfirmed.is_empty() {
            self.gone.push_back((now, unconfirmed.len()));
        }
        Vec::new()
    }

    /// When to list again in order to confirm; `None` while nothing is held back.
    pub(crate) fn confirm_at(&self) -> Option<Instant> {
        self.held.values().min().map(|since| *since + WINDOW)
    }

    fn is_sudden(&self, known: usize, missing: usize) -> bool {
        let gone: usize = self.gone.iter().map(|(_, count)| count).sum();
        let at_start = known + gone;
        missing > 0 && at_start >= FLOOR && (missing + gone) * 2 > at_start
    }

    fn drop_before_window(&mut self, now: Instant) {
        while self.gone.front().is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.gone.pop_front();
        }
    }
}

fn is_confirmed(since: Instant, source: Source) -> bool {
    matches!(source, Source::Listing(begun) if begun >= since + WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(range: std::ops::Range<u32>) -> Vec<u32> {
        range.collect()
    }

    #[test]
    fn two_of_three_are_deleted_at_once() {
        let mut guard = MassDeletionGuard::default();
        assert!(
            guard
                .entries_to_keep(Instant::now(), Source::Hint, 3, keys(0..2))
                .is_empty()
        );
        assert_eq!(guard.confirm_at(), None);
    }

    #[test]
    fn half_is_deleted_at_once_and_one_more_is_held_back() {
        let now = Instant::now();
        assert!(
            MassDeletionGuard::default()
                .entries_to_keep(now, Source::Hint, 20, keys(0..10))
                .is_empty()
        );
        assert_eq!(
            MassDeletionGuard::default()
                .entries_to_keep(now, Source::Hint, 20, keys(0..11))
                .len(),
            11
        );
    }

    #[test]
    fn deletions_within_the_window_add_up() {
        let mut guard = MassDeletionGuard::default();
        let now = Instant::now();
        for n in 0..10 {
            let kept = guard.entries_to_keep(now, Source::Hint, 20 - n as usize, keys(n..n + 1));
            assert!(kept.is_empty(), "step {n}");
        }
        assert_eq!(
            guard.entries_to_keep(now, Source::Hint, 10, keys(10..11)),
            [10]
        );
        // The same steps over a longer time are nobody's fault.
        assert!(
            guard
                .entries_to_keep(now + WINDOW, Source::Hint, 10, keys(10..11))
                .is_empty()
        );
    }

    #[test]
    fn a_list_confirms_only_if_it_began_after_the_window() {
        let mut guard = MassDeletionGuard::default();
        let start = Instant::now();
        assert_eq!(
            guard
                .entries_to_keep(start, Source::Hint, 100, keys(0..90))
                .len(),
            90
        );
        let early = start + WINDOW / 2;
        assert_eq!(
            guard
                .entries_to_keep(early, Source::Listing(early), 100, keys(0..90))
                .len(),
            90
        );
        let due = guard.confirm_at().unwrap();
        assert_eq!(due, start + WINDOW);
        // A listing that began before it was due proves nothing, even if it ends later.
        assert_eq!(
            guard
                .entries_to_keep(due, Source::Listing(early), 100, keys(0..90))
                .len(),
            90
        );
        assert_eq!(
            guard
                .entries_to_keep(due, Source::Hint, 100, keys(0..90))
                .len(),
            90
        );
        assert!(
            guard
                .entries_to_keep(due, Source::Listing(due), 100, keys(0..90))
                .is_empty()
        );
        assert_eq!(guard.confirm_at(), None);
    }

    #[test]
    fn a_later_deletion_is_held_back_for_its_own_window_and_a_reappeared_entry_is_released() {
        let mut guard = MassDeletionGuard::default();
        let start = Instant::now();
        assert_eq!(
            guard
                .entries_to_keep(start, Source::Hint, 100, keys(0..60))
                .len(),
            60
        );
        let later = start + WINDOW / 2;
        assert_eq!(
            guard
                .entries_to_keep(later, Source::Hint, 100, keys(0..90))
                .len(),
            90
        );
        let due = start + WINDOW;
        let kept = guard.entries_to_keep(due, Source::Listing(due), 100, keys(0..90));
        assert_eq!(
            kept.len(),
            30,
            "the first sixty are confirmed, the others are still most of the rest"
        );
        assert_eq!(guard.confirm_at(), Some(later + WINDOW));
        assert!(
            guard
                .entries_to_keep(due, Source::Hint, 40, Vec::new())
                .is_empty(),
            "all came back"
        );
        assert_eq!(guard.confirm_at(), None);
    }
}
