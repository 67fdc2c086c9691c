//! What every handler is given of a request.

use bismuth_store::Key;
use bismuth_store::records::{Condition, EngineError, Revision};
use http::request::Parts;

use super::condition::Conditions;
use super::memory::{MemoryPermit, RequestBudget};
use super::params::Params;
use super::problems::{self, Refusal};
use super::{AppState, Caller, percent};

/// Who asks for what, without its body.
#[derive(Clone, Copy)]
pub(crate) struct RequestContext<'a> {
    pub(crate) app: &'a AppState,
    pub(crate) caller: &'a Caller,
    pub(crate) head: &'a Parts,
}

impl<'a> RequestContext<'a> {
    /// The query, in which only `known` names may be.
    pub(super) fn params(self, known: &[&str]) -> Result<Params, Refusal> {
        Params::parse(self.head.uri.query(), known)
    }

    /// The key in the path of a request that has no parameters.
    pub(super) fn key(self, encoded: &str) -> Result<Key, Refusal> {
        self.params(&[])?;
        percent::key(encoded)
    }

    pub(super) fn conditions(self) -> Result<Conditions, Refusal> {
        Conditions::of(&self.head.headers)
    }

    /// What a write must find; `current` is which state of `what` is there, and since when.
    pub(super) async fn write_condition(
        self,
        what: &str,
        current: impl Future<Output = Result<Option<(Revision, u64)>, EngineError>>,
    ) -> Result<Condition, Refusal> {
        let conditions = self.conditions()?;
        let since = conditions.unmodified_since();
        let condition = conditions.of_write()?.unwrap_or_default();
        let Some(since) = since else {
            return Ok(condition);
        };
        let pinned = since.pin(&condition, current.await?);
        pinned.map_err(|no| problems::refused(&no, what, 0))
    }

    /// What the bytes of the request and of the answer are taken out of.
    pub(super) fn budget(self) -> RequestBudget<'a> {
        self.caller.budget(self.app)
    }

    /// Room for so many bytes of the answer.
    pub(super) async fn acquire(self, bytes: usize) -> Result<MemoryPermit, Refusal> {
        self.budget().acquire(bytes).await
    }
}
