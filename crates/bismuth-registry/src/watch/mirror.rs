//! Local mirror of one kind of record: the entries as last read, and the entries as published to readers.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

use super::mass_deletion_guard::{MassDeletionGuard, Source, WINDOW};

/// Entries of one kind. What was read is put in; [`update_published`](Self::update_published) decides what is published.
#[derive(Debug)]
pub(super) struct Mirror<K, V> {
    /// What it holds, for the log.
    name: &'static str,
    /// As last read.
    observed: HashMap<K, V>,
    /// As published: what was last read, and what is held back.
    published: HashMap<K, V>,
    /// Whether an entry serves anything. One that ceases to is as gone as one that is removed.
    serves: fn(&V) -> bool,
    /// Since when entries serve that did not at the start of the window. They may go as quickly as they came:
    /// functions that are deployed and deleted all the time are no fault.
    recent: HashMap<K, Instant>,
    /// Whether `published` was ever updated from a read. What a first list brings may be of any age.
    ever_published: bool,
    guard: MassDeletionGuard<K>,
    held: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Mirror<K, V> {
    pub(super) fn new(name: &'static str, serves: fn(&V) -> bool) -> Self {
        let (observed, published) = (HashMap::new(), HashMap::new());
        Self {
            name,
            observed,
            published,
            serves,
            recent: HashMap::new(),
            ever_published: false,
            guard: MassDeletionGuard::default(),
            held: 0,
        }
    }

    /// Begins with what was known earlier.
    pub(super) fn seed(&mut self, entries: HashMap<K, V>) {
        self.published.clone_from(&entries);
        self.observed = entries;
    }

    pub(super) fn published(&self) -> &HashMap<K, V> {
        &self.published
    }

    /// How many are published although they are gone.
    pub(super) fn held_back(&self) -> usize {
        self.held
    }

    pub(super) fn confirm_at(&self) -> Option<Instant> {
        self.guard.confirm_at()
    }

    /// The last good value.
    pub(super) fn last(&self, key: &K) -> Option<&V> {
        self.observed.get(key).or_else(|| self.published.get(key))
    }

    /// Puts in a whole list.
    pub(super) fn replace(&mut self, entries: HashMap<K, V>) {
        self.observed = entries;
    }

    /// Puts in one entry, or takes it out.
    pub(super) fn put(&mut self, key: K, entry: Option<V>) {
        match entry {
            Some(entry) => self.observed.insert(key, entry),
            None => self.observed.remove(&key),
        };
    }

    /// Decides what is published from now on.
    pub(super) fn update_published(&mut self, now: Instant, source: Source) {
        let serves = self.serves;
        let serving = |entries: &HashMap<K, V>, key: &K| entries.get(key).is_some_and(serves);
        self.recent.retain(|_, since| now < *since + WINDOW);
        let known = self.published.iter().filter(|(_, entry)| serves(entry));
        let known: Vec<&K> = known
            .map(|(key, _)| key)
            .filter(|key| !self.recent.contains_key(*key))
            .collect();
        let missing: Vec<K> = known
            .iter()
            .filter(|key| !serving(&self.observed, key))
            .map(|key| (*key).clone())
            .collect();
        let (known, gone) = (known.len(), missing.len());
        let kept = self.guard.entries_to_keep(now, source, known, missing);
        self.report(known, gone, kept.len());
        let mut published = self.observed.clone();
        for key in kept {
            if let Some(entry) = self.published.get(&key) {
                published.insert(key, entry.clone());
            }
        }
        let before = std::mem::replace(&mut self.published, published);
        self.recent.retain(|key, _| serving(&self.published, key));
        if std::mem::replace(&mut self.ever_published, true) {
            let came = self.published.iter().filter(|(_, entry)| serves(entry));
            let came = came.filter(|(key, _)| !serving(&before, key));
            self.recent.extend(came.map(|(key, _)| (key.clone(), now)));
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
    use super::super::mass_deletion_guard::FLOOR;
    use super::*;

    fn update_published(
        mirror: &mut Mirror<usize, ()>,
        now: Instant,
        keys: std::ops::Range<usize>,
    ) -> usize {
        mirror.replace(keys.map(|key| (key, ())).collect());
        mirror.update_published(now, Source::Hint);
        mirror.published().len()
    }

    #[test]
    fn entries_added_within_the_window_may_be_deleted_within_it() {
        let mut mirror = Mirror::new("entries", |()| true);
        let start = Instant::now();
        assert_eq!(update_published(&mut mirror, start, 0..2), 2);
        // Four at a time come and go, a hundred altogether.
        for n in 2..100 {
            assert_eq!(
                update_published(&mut mirror, start + WINDOW / 100, n..n + 4),
                4
            );
        }
        assert_eq!(mirror.held_back(), 0);
        assert_eq!(update_published(&mut mirror, start + WINDOW / 50, 0..0), 0);
    }

    #[test]
    fn entries_of_the_first_list_or_of_the_seed_are_held_back() {
        let now = Instant::now();
        let mut listed = Mirror::new("entries", |()| true);
        assert_eq!(update_published(&mut listed, now, 0..FLOOR), FLOOR);
        for _ in 0..3 {
            assert_eq!(update_published(&mut listed, now, 0..0), FLOOR);
        }
        let mut seeded = Mirror::new("entries", |()| true);
        seeded.seed((0..FLOOR).map(|key| (key, ())).collect());
        assert_eq!(update_published(&mut seeded, now, 0..0), FLOOR);
    }

    #[test]
    fn entries_added_before_the_window_are_held_back() {
        let mut mirror = Mirror::new("entries", |()| true);
        let start = Instant::now();
        assert_eq!(update_published(&mut mirror, start, 0..0), 0);
        assert_eq!(update_published(&mut mirror, start, 0..FLOOR), FLOOR);
        assert_eq!(update_published(&mut mirror, start + WINDOW, 0..0), FLOOR);
    }
}
