//! Readiness conditions: the process is ready when all of them are met.

use std::sync::{Arc, Mutex, PoisonError};

/// The conditions of a process, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    conditions: Mutex<Vec<Condition>>,
}

/// One condition; whoever knows about it holds it and says how it stands. Clones are the same.
#[derive(Clone, Debug)]
pub struct Condition {
    name: Arc<str>,
    /// Why it is not met.
    unmet: Arc<Mutex<Option<String>>>,
}

impl Readiness {
    pub(super) fn add(&self, name: String) -> Condition {
        let condition = Condition {
            name: name.into(),
            unmet: Arc::new(Mutex::new(Some("not yet".to_owned()))),
        };
        let mut all = self
            .conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(condition.clone());
        condition
    }

    pub(super) fn unmet(&self) -> Vec<(String, String)> {
        let all = self
            .conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .filter_map(|condition| Some((condition.name.to_string(), condition.why_unmet()?)))
            .collect()
    }
}

impl Condition {
    /// It holds.
    pub fn met(&self) {
        self.set(None);
    }

    /// It does not hold, because of `reason` (one line, shown to whoever asks).
    pub fn unmet(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        let mut current = self.unmet.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == reason {
            return;
        }
        match &reason {
            None => tracing::info!(condition = &*self.name, "condition met"),
            Some(reason) => tracing::warn!(condition = &*self.name, reason, "condition not met"),
        }
        *current = reason;
    }

    fn why_unmet(&self) -> Option<String> {
        self.unmet
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
