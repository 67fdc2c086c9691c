//! Entries as they are in the tree, and as they are shown.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

use super::holdback::{Evidence, Holdback, WINDOW};

/// Entries of one kind. What was read is put in; [`settle`](Self::settle) decides what is shown.
#[derive(Debug)]
pub(super) struct Shelf<K, V> {
    /// What it holds, for the log.
    name: &'static str,
    /// As last read.
    truth: HashMap<K, V>,
    /// As shown: the truth, and what is held back.
    shown: HashMap<K, V>,
    /// Whether an entry serves anything. One that ceases to is as gone as one that is removed.
    serves: fn(&V) -> bool,
    /// Since when entries serve that did not at the start of the window. They may go as quickly as they came:
    /// functions that are deployed and deleted all the time are no fault.
    young: HashMap<K, Instant>,
    /// Whether `shown` was ever settled. What a first list brings may be of any age.
    settled: bool,
    holdback: Holdback<K>,
    held: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Shelf<K, V> {
    pub(super) fn new(name: &'static str, serves: fn(&V) -> bool) -> Self {
        let (truth, shown) = (HashMap::new(), HashMap::new());
        Self {
            name,
            truth,
            shown,
            serves,
            young: HashMap::new(),
            settled: false,
            holdback: Holdback::default(),
            held: 0,
        }
    }

    /// Begins with what was known earlier.
    pub(super) fn seed(&mut self, entries: HashMap<K, V>) {
        self.shown.clone_from(&entries);
        self.truth = entries;
    }

    pub(super) fn shown(&self) -> &HashMap<K, V> {
        &self.shown
    }

    /// How many are shown although they are gone.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn confirm_at(&self) -> Option<Instant> {
        self.holdback.confirm_at()
    }

    /// The last good value.
    pub(super) fn last(&self, key: &K) -> Option<&V> {
        self.truth.get(key).or_else(|| self.shown.get(key))
    }

    /// Puts in a whole list.
    pub(super) fn replace(&mut self, entries: HashMap<K, V>) {
        self.truth = entries;
    }

    /// Puts in one entry, or takes it out.
    pub(super) fn put(&mut self, key: K, entry: Option<V>) {
        match entry {
            Some(entry) => self.truth.insert(key, entry),
            None => self.truth.remove(&key),
        };
    }

    /// Decides what is shown from now on.
    pub(super) fn settle(&mut self, now: Instant, evidence: Evidence) {
        let serves = self.serves;
        let serving = |entries: &HashMap<K, V>, key: &K| entries.get(key).is_some_and(serves);
        self.young.retain(|_, since| now < *since + WINDOW);
        let known = self.shown.iter().filter(|(_, entry)| serves(entry));
        let known: Vec<&K> = known
            .map(|(key, _)| key)
            .filter(|key| !self.young.contains_key(*key))
            .collect();
        let missing: Vec<K> = known
            .iter()
            .filter(|key| !serving(&self.truth, key))
            .map(|key| (*key).clone())
            .collect();
        let (known, gone) = (known.len(), missing.len());
        let kept = self.holdback.judge(now, evidence, known, missing);
        self.report(known, gone, kept.len());
        let mut shown = self.truth.clone();
        for key in kept {
            if let Some(entry) = self.shown.get(&key) {
                shown.insert(key, entry.clone());
            }
        }
        let before = std::mem::replace(&mut self.shown, shown);
        self.young.retain(|key, _| serving(&self.shown, key));
        if std::mem::replace(&mut self.settled, true) {
            let came = self.shown.iter().filter(|(_, entry)| serves(entry));
            let came = came.filter(|(key, _)| !serving(&before, key));
            self.young.extend(came.map(|(key, _)| (key.clone(), now)));
        }
    }

    fn report(&mut self, known: usize, gone: usize, held: usize) {
        let what = self.name;
        if held > self.held {
            tracing::error!(
                what,
                known,
                gone,
                held,
                "most of what is known is suddenly gone; held back until confirmed"
            );
        } else if held < self.held {
            tracing::warn!(
                what,
                known,
                gone,
                held,
                "what was held back came back or is confirmed to be gone"
            );
        }
        self.held = held;
    }
}

#[cfg(test)]
mod tests {
    use super::super::holdback::FLOOR;
    use super::*;

    fn settle(shelf: &mut Shelf<usize, ()>, now: Instant, keys: std::ops::Range<usize>) -> usize {
        shelf.replace(keys.map(|key| (key, ())).collect());
        shelf.settle(now, Evidence::Hint);
        shelf.shown().len()
    }

    #[test]
    fn what_came_within_the_window_may_go_within_it() {
        let mut shelf = Shelf::new("entries", |()| true);
        let start = Instant::now();
        assert_eq!(settle(&mut shelf, start, 0..2), 2);
        // Four at a time come and go, a hundred altogether.
        for n in 2..100 {
            assert_eq!(settle(&mut shelf, start + WINDOW / 100, n..n + 4), 4);
        }
        assert_eq!(shelf.held(), 0);
        assert_eq!(settle(&mut shelf, start + WINDOW / 50, 0..0), 0);
    }

    #[test]
    fn what_a_first_list_brought_or_an_earlier_process_knew_is_held_back_at_once() {
        let now = Instant::now();
        let mut listed = Shelf::new("entries", |()| true);
        assert_eq!(settle(&mut listed, now, 0..FLOOR), FLOOR);
        for _ in 0..3 {
            assert_eq!(settle(&mut listed, now, 0..0), FLOOR);
        }
        let mut seeded = Shelf::new("entries", |()| true);
        seeded.seed((0..FLOOR).map(|key| (key, ())).collect());
        assert_eq!(settle(&mut seeded, now, 0..0), FLOOR);
    }

    #[test]
    fn what_came_before_the_window_is_held_back() {
        let mut shelf = Shelf::new("entries", |()| true);
        let start = Instant::now();
        assert_eq!(settle(&mut shelf, start, 0..0), 0);
        assert_eq!(settle(&mut shelf, start, 0..FLOOR), FLOOR);
        assert_eq!(settle(&mut shelf, start + WINDOW, 0..0), FLOOR);
    }
}
