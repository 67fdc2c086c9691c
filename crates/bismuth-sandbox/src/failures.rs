//! What a teardown returns: it tries every step and keeps every error.

use std::error::Error;
use std::fmt;

use bismuth_base::chain;

/// The errors of a teardown, in the order in which the steps were tried. Never empty.
#[derive(Debug)]
pub struct Failures<E>(Vec<E>);

impl<E> Failures<E> {
    /// The errors, in the order in which the steps were tried.
    pub fn errors(&self) -> &[E] {
        &self.0
    }
}

impl<E> IntoIterator for Failures<E> {
    type Item = E;
    type IntoIter = std::vec::IntoIter<E>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<E: Error> fmt::Display for Failures<E> {
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

impl<E: Error> Error for Failures<E> {}

/// Gathers errors while a teardown goes on.
#[derive(Debug)]
pub(crate) struct Attempts<E>(Vec<E>);

impl<E> Attempts<E> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Keeps the error, if it is one, and says whether the step succeeded.
    pub(crate) fn note(&mut self, step: Result<(), E>) -> bool {
        step.map_err(|error| self.0.push(error)).is_ok()
    }

    /// Keeps all errors of a teardown that is one step of this one.
    pub(crate) fn note_all<F: Into<E>>(&mut self, steps: Result<(), Failures<F>>) {
        if let Err(failures) = steps {
            self.0.extend(failures.into_iter().map(Into::into));
        }
    }

    pub(crate) fn finish(self) -> Result<(), Failures<E>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Failures(self.0))
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
        let mut attempts = Attempts::new();
        attempts.note(Err(Remove("a", io::Error::other("busy"))));
        attempts.note(Ok(()));
        attempts.note(Err(Remove("b", io::Error::other("gone"))));
        let failures = attempts.finish().expect_err("two steps failed");
        assert_eq!(failures.to_string(), "remove a: busy; remove b: gone");
        assert_eq!(failures.errors().len(), 2);
    }
}
