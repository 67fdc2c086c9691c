//! The cancellation token of a process, and the reason if it ends as a failure.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Says "end now" to everything that holds a clone, and remembers whether that was a failure.
///
/// It goes one way: once triggered it stays so.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    failure: Arc<OnceLock<Failure>>,
}

/// Why the process ends although nobody asked it to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    reason: String,
}

impl Shutdown {
    /// A token that is not triggered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the process in good order. Again is harmless.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Ends the process in good order, but as a failure. The first reason is kept.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        // A second failure is usually the consequence of the first; its own task has logged it.
        let _first_stays = self.failure.set(Failure { reason });
        self.token.cancel();
    }

    /// Waits until it is triggered. Safe to cancel, and to call any number of times.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// Whether it has been triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The same moment as a [`CancellationToken`], for libraries that take one. Cancelling the
    /// answer does not trigger this shutdown.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.child_token()
    }

    /// A shutdown that follows this one, and can be triggered alone: the end of one part.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
            failure: Arc::default(),
        }
    }

    /// How the process should end, as far as is known now.
    ///
    /// # Errors
    /// The first reason given to [`Shutdown::fail`].
    pub fn outcome(&self) -> Result<(), Failure> {
        match self.failure.get() {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_hears_the_trigger() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        assert!(!other.is_triggered());
        shutdown.trigger();
        other.cancelled().await;
        assert_eq!(other.outcome(), Ok(()));
    }

    #[test]
    fn the_first_failure_is_the_outcome() {
        let shutdown = Shutdown::new();
        shutdown.fail("first");
        shutdown.fail("second");
        assert!(shutdown.is_triggered());
        let failure = shutdown.outcome().expect_err("it failed");
        assert_eq!(failure.to_string(), "first");
    }

    #[test]
    fn a_child_follows_and_can_end_alone() {
        let shutdown = Shutdown::new();
        let first = shutdown.child();
        let second = shutdown.child();
        first.fail("only this part");
        assert!(!shutdown.is_triggered() && !second.is_triggered());
        shutdown.trigger();
        assert!(second.is_triggered());
        assert_eq!(shutdown.outcome(), Ok(()));
    }
}
