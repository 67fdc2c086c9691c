//! Entries as they are in the tree, and as they are shown.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

use super::holdback::{Evidence, Holdback};

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
        let known = self.shown.values().filter(|entry| serves(entry)).count();
        let missing: Vec<K> = self
            .shown
            .iter()
            .filter(|(key, entry)| serves(entry) && !serving(&self.truth, key))
            .map(|(key, _)| key.clone())
            .collect();
        let gone = missing.len();
        let kept = self.holdback.judge(now, evidence, known, missing);
        self.report(known, gone, kept.len());
        let mut shown = self.truth.clone();
        for key in kept {
            if let Some(entry) = self.shown.remove(&key) {
                shown.insert(key, entry);
            }
        }
        self.shown = shown;
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
