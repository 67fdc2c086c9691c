//! The errors of a teardown, which tries every step and returns every error.

use std::error::Error;
use std::fmt;

use bismuth_base::chain;

/// The errors of a teardown, in the order in which the steps were tried. Never empty.
#[derive(Debug)]
pub struct TeardownErrors<E>(Vec<E>);

impl<E: Error> fmt::Display for TeardownErrors<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            f.write_str(&chain(error))?;
        }
        Ok(())
    }
}

impl<E: Error> Error for TeardownErrors<E> {}

/// Collects the errors of a teardown.
#[derive(Debug)]
pub(crate) struct ErrorCollector<E>(Vec<E>);

impl<E> ErrorCollector<E> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Keeps the error, if it is one; else gives what the step came to.
    pub(crate) fn push_err<T>(&mut self, step: Result<T, E>) -> Option<T> {
        step.map_err(|error| self.0.push(error)).ok()
    }

    /// Keeps all errors of a teardown that is one step of this one.
    pub(crate) fn push_all<F: Into<E>>(&mut self, steps: Result<(), TeardownErrors<F>>) {
        if let Err(errors) = steps {
            self.0.extend(errors.0.into_iter().map(Into::into));
        }
    }

    pub(crate) fn finish(self) -> Result<(), TeardownErrors<E>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(TeardownErrors(self.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("remove {0}")]
    struct Remove(&'static str, #[source] io::Error);

    #[test]
    fn all_errors_and_their_sources_are_told_on_one_line() {
        let mut errors = ErrorCollector::new();
        let failed = |what, why| Err::<(), _>(Remove(what, io::Error::other(why)));
        errors.push_err(failed("a", "busy"));
        errors.push_err(Ok(()));
        errors.push_err(failed("b", "gone"));
        let errors = errors.finish().expect_err("two steps failed");
        assert_eq!(errors.to_string(), "remove a: busy; remove b: gone");
    }
}
