//! Reads records and commits transactions; after a lost connection, finds out whether a transaction was committed.
//!
//! ```text
//!  commit ─► committed                              Committed
//!     │ ├──► the tree says no (version, missing …)  Refused: the caller reads again and decides again
//!     │ └──► no connection                          Err: nothing was changed
//!     ▼
//!  connection lost: is the proof there?  yes ─► Committed
//!     ▲                                   no ─► commit again: every transaction has a step that can be
//!     └───────────────────────────────────────  made only once, so it is never made twice
//! ```
//!
//! A leader's registry puts the check of its term in front of each transaction. When that is what refuses,
//! the answer is [`Error::TermLost`], which no caller tries again.

use std::time::Duration;

use bismuth_base::{Backoff, Delays};
use bismuth_coord::{CreateMode, Error as TreeError, Op, SessionState, Version, Versioned};
use bytes::Bytes;

use crate::Registry;
use crate::codec::Record;
use crate::error::{Error, Result};

/// How often a change that others overtook is decided anew. Writers to one function are few (an operator, a
/// deployer, one leader of the control loops), so this many lost races in a row mean that something is wrong.
pub(crate) const ATTEMPTS: u32 = 16;

/// The wait between two such attempts, doubling from the first to the second: about the time of one transaction,
/// up to the time of a few.
const RETRY_WAIT: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(32));

/// How often a transaction of unknown outcome is sent again.
const RESENDS: u32 = 4;

/// How long a lost connection is waited for in order to learn the outcome. The control plane answers within a
/// second when ZooKeeper is down; this leaves room for the rest of its answer.
const SETTLE: Duration = Duration::from_millis(700);

/// How many nodes are read in one pipelined request: at 64 KiB each, what may be under way at most is 32 MiB, and
/// typically it is less than one.
const PIPELINE: usize = 512;

/// A record as it was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored<R> {
    pub(crate) record: R,
    pub(crate) version: Version,
}

/// What became of a transaction.
pub(crate) enum Outcome {
    Committed,
    /// Nothing was changed, and this is why.
    Refused(TreeError),
}

/// What is to be seen in the tree if a transaction was made, and otherwise not.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    /// A node holds this.
    Holds(String, Bytes),
    /// A node is there.
    Exists(String),
    /// A node is not there.
    Gone(String),
}

impl Registry {
    /// Reads one record; `None` if there is no such node.
    pub(crate) async fn read<R: Record>(&self, path: &str) -> Result<Option<Stored<R>>> {
        parse(path, self.tree.get(path).await)
    }

    /// Reads many records, pipelined; one answer per path.
    pub(crate) async fn read_many<R: Record>(
        &self,
        paths: &[String],
    ) -> Vec<Result<Option<Stored<R>>>> {
        let nodes = self.get_many(paths).await;
        paths
            .iter()
            .zip(nodes)
            .map(|(path, node)| parse(path, node))
            .collect()
    }

    /// Reads many nodes, pipelined, with a bound on what is under way; one answer per path.
    pub(crate) async fn get_many(&self, paths: &[String]) -> Vec<Result<Versioned, TreeError>> {
        let mut nodes = Vec::with_capacity(paths.len());
        for chunk in paths.chunks(PIPELINE) {
            nodes.extend(self.tree.get_many(chunk).await);
        }
        nodes
    }

    /// The names below a node; `None` if there is no such node.
    pub(crate) async fn names(&self, path: &str) -> Result<Option<Vec<String>>> {
        match self.tree.children(path).await {
            Ok(names) => Ok(Some(names)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a node without data, and its ancestors, unless they are there.
    pub(crate) async fn ensure(&self, path: &str) -> Result<()> {
        let mut attempt = 0;
        loop {
            match self.tree.ensure(path).await {
                // It is harmless to do again, so an unknown outcome is resolved by doing so.
                Err(error) if error.is_unknown_outcome() && attempt < RESENDS => {
                    attempt += 1;
                    self.wait_connected().await;
                }
                done => return Ok(done?),
            }
        }
    }

    /// Makes a transaction; over a lost connection finds out by `proof` whether it was made.
    pub(crate) async fn commit(&self, act: &str, ops: Vec<Op>, proof: &Proof) -> Result<Outcome> {
        let ops = self.fence(ops);
        let mut doubt: Option<TreeError> = None;
        for _ in 0..RESENDS {
            match self.tree.commit(ops.clone()).await {
                Ok(()) => return Ok(Outcome::Committed),
                Err(error) if error.is_unknown_outcome() => doubt = Some(error),
                Err(error) => match doubt.take() {
                    None if error.is_unavailable() => return Err(error.into()),
                    None => return self.refused(act, error),
                    // What refuses this one may be what an earlier one did, or may have come after it: so may the next term.
                    Some(earlier) if !error.is_unavailable() => {
                        return match self.is_there(proof).await {
                            Ok(true) => Ok(Outcome::Committed),
                            Ok(false) => self.refused(act, error),
                            Err(_) => Err(Error::UnknownOutcome {
                                act: act.to_owned(),
                                source: earlier,
                            }),
                        };
                    }
                    Some(earlier) => doubt = Some(earlier),
                },
            }
            self.wait_connected().await;
            match self.is_there(proof).await {
                Ok(true) => return Ok(Outcome::Committed),
                Ok(false) => tracing::debug!(
                    act,
                    "the connection was lost before the change was made; sending it again"
                ),
                Err(error) => {
                    let source = doubt.take().unwrap_or(error);
                    return Err(Error::UnknownOutcome {
                        act: act.to_owned(),
                        source,
                    });
                }
            }
        }
        match doubt {
            Some(source) => Err(Error::UnknownOutcome {
                act: act.to_owned(),
                source,
            }),
            None => Err(Error::Contended {
                act: act.to_owned(),
                attempts: RESENDS,
            }),
        }
    }

    /// The steps behind the check of the term, if there is one. It comes first, so that it is what refuses when others
    /// would as well.
    fn fence(&self, mut ops: Vec<Op>) -> Vec<Op> {
        if let Some(term) = self.term {
            ops.insert(0, check(self.layout.term(), term.version()));
        }
        ops
    }

    /// What it means that the tree said no.
    fn refused(&self, act: &str, error: TreeError) -> Result<Outcome> {
        match self.term {
            Some(term)
                if (error.is_conflict() || error.is_not_found())
                    && error.path() == Some(self.layout.term().as_str()) =>
            {
                Err(Error::TermLost {
                    act: act.to_owned(),
                    term: term.number(),
                })
            }
            _ => Ok(Outcome::Refused(error)),
        }
    }

    async fn is_there(&self, proof: &Proof) -> Result<bool, TreeError> {
        match proof {
            Proof::Holds(path, data) => match self.tree.get(path).await {
                Ok(node) => Ok(node.data == *data),
                Err(error) if error.is_not_found() => Ok(false),
                Err(error) => Err(error),
            },
            Proof::Exists(path) => Ok(self.tree.exists(path).await?.is_some()),
            Proof::Gone(path) => Ok(self.tree.exists(path).await?.is_none()),
        }
    }

    /// Waits a moment for a lost connection. Whether it is back is found out by using it.
    async fn wait_connected(&self) {
        let mut session = self.tree.session();
        let connected = session.wait_for(|state| *state == SessionState::Connected);
        // A closed channel or the end of the wait both leave it to the next call to say what is wrong.
        let _ = tokio::time::timeout(SETTLE, connected).await;
    }
}

/// Counts the attempts of a change that others overtake, and waits between them.
pub(crate) struct Attempts {
    act: String,
    delays: Delays,
}

impl Attempts {
    pub(crate) fn new(act: String) -> Self {
        Self {
            act,
            delays: RETRY_WAIT.delays(),
        }
    }

    pub(crate) fn act(&self) -> &str {
        &self.act
    }

    /// To be called when overtaken.
    pub(crate) async fn next(&mut self) -> Result<()> {
        let made = self.delays.attempts() + 1;
        if made >= ATTEMPTS {
            return Err(Error::Contended {
                act: self.act.clone(),
                attempts: made,
            });
        }
        tokio::time::sleep(self.delays.next_delay()).await;
        Ok(())
    }
}

fn parse<R: Record>(path: &str, node: Result<Versioned, TreeError>) -> Result<Option<Stored<R>>> {
    match node {
        Ok(node) => match R::decode(&node.data) {
            Ok(record) => Ok(Some(Stored {
                record,
                version: node.version,
            })),
            Err(source) => Err(Error::Record {
                path: path.to_owned(),
                source,
            }),
        },
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The bytes of a record that is to be written to `path`.
pub(crate) fn encode<R: Record>(path: &str, record: &R) -> Result<Bytes> {
    record.encode().map_err(|source| Error::Record {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn create(path: String, data: Bytes) -> Op {
    Op::Create {
        path,
        data,
        mode: CreateMode::Persistent,
    }
}

pub(crate) fn set(path: String, data: Bytes, expected: Version) -> Op {
    Op::Set {
        path,
        data,
        expected: Some(expected),
    }
}

pub(crate) fn delete(path: String, expected: Version) -> Op {
    Op::Delete {
        path,
        expected: Some(expected),
    }
}

pub(crate) fn check(path: String, expected: Version) -> Op {
    Op::Check { path, expected }
}
