//! Terms of leaders, and the registry whose writes a term fences.
//!
//! ```text
//!  leader of term 7 ─► transaction: check that /election/term is at 7, steps … ─┬─► made: nobody has led since
//!                                                                               └─► TermLost: nothing changed
//! ```
//!
//! A leader that was paused cannot know that it leads no more. ZooKeeper does, at the moment of each transaction.

use std::fmt;

use bismuth_coord::Version;

use crate::Registry;

/// The time in which one replica leads. It begins with a change of `/election/term`, whose version tells it from all
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    version: Version,
}

impl Term {
    /// The term that begins with the next change of `/election/term`, which has this version or does not exist.
    pub(crate) fn after(current: Option<Version>) -> Self {
        // ZooKeeper counts on in the same way after two thousand million terms.
        let next = current.map_or(0, |Version(version)| version.wrapping_add(1));
        Self {
            version: Version(next),
        }
    }

    /// The term of this number, if it is one.
    pub(crate) fn numbered(number: u64) -> Option<Self> {
        let version = i32::try_from(number.checked_sub(1)?).ok()?;
        Some(Self {
            version: Version(version),
        })
    }

    /// Counted from 1.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::try_from(i64::from(self.version.0) + 1).unwrap_or(0)
    }

    /// The version that `/election/term` has in it.
    pub(crate) fn version(self) -> Version {
        self.version
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

impl Registry {
    /// This registry as the leader of a term uses it: once that term is over, each change is refused with
    /// [`Error::TermLost`](crate::Error::TermLost) and changes nothing. Not fenced are [`bootstrap`](Self::bootstrap), a
    /// node's registration, and what is written to the [tree](Self::tree) directly.
    #[must_use]
    pub fn fenced(&self, term: Term) -> Self {
        Self {
            term: Some(term),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_counted_from_one_and_its_version_from_zero() {
        let first = Term::after(None);
        assert_eq!((first.number(), first.version()), (1, Version(0)));
        let next = Term::after(Some(Version(41)));
        assert_eq!((next.number(), next.version()), (43, Version(42)));
        assert_eq!(Term::numbered(43), Some(next));
        assert_eq!((Term::numbered(0), Term::numbered(1 << 40)), (None, None));
    }
}
