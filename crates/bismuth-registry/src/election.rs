//! Election of the replica that leads: an ephemeral znode, and a term that fences what the leader writes.
//!
//! ```text
//!            ┌────────────── session ended, znode gone, term taken by another ──────────────────┐
//!            ▼                                                                                  │
//!  look at /election/leader                                                                     │
//!     ├─ nothing ─► one transaction: create it, next /election/term ─► Leading: the work runs ──┤
//!     ├─ another's ──────────► Following ─┐                                                     │ told to end
//!     ├─ no leader wrote it ─► Blocked ───┼─► wait for an event or a moment, look again         ▼
//!     └─ no answer ──────────► Unknown ───┘                                     work dropped, znode deleted
//! ```
//!
//! The happy path:
//! 1. [`Registry::candidate`], [`Candidate::run`]: nobody leads, so it creates `/election/leader` and begins a term;
//! 2. its work gets a registry [fenced](Registry::fenced) by that term, and runs while it leads;
//! 3. told to end, it drops the work and deletes its znode; the others see that, and one of them leads.
//!
//! A leader that ZooKeeper does not answer goes on: whether it still leads is decided by its fence, for each
//! transaction. Only when it is known to lead no more is its work dropped. The znode of an earlier session of this
//! process is another's: it is waited out.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use bismuth_base::backoff::{Backoff, jittered};
use bismuth_base::{chain, now_ms};
use bismuth_coord::{CreateMode, Op, SessionState, Versioned, Watch};
use bismuth_model::{LeaderRecord, TermRecord};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::codec::Record;
use crate::error::{Error, Result};
use crate::term::Term;
use crate::transaction::{create, encode, set};
use crate::{Layout, Registry};

/// How often it is looked who leads although no event asked for it. A takeover may take two seconds after the session
/// of the leader ended: with this it does even if the event was lost, for one read per replica.
const RECHECK_INTERVAL: Duration = Duration::from_millis(1500);

/// The waits between attempts while ZooKeeper does not answer, or another candidate was faster.
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// The waits before standing again after leading. When terms end again and again, somebody else writes
/// `/election/…`, and nobody shall fight for it at full speed.
const STAND_AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// A term that lasted this long did not end again and again.
const LASTING: Duration = Duration::from_secs(60);

/// How long deleting the leader's znode may take when it ends: another shall lead within a second. If ZooKeeper does
/// not answer, the znode goes with the session.
const RESIGN_TIMEOUT: Duration = Duration::from_millis(700);

/// Who leads, as a candidate knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionState {
    /// Not known: ZooKeeper did not answer yet, or not any more.
    Unknown,
    /// This candidate, in this term.
    Leading(Term),
    /// Another replica.
    Following(LeaderRecord),
    /// Nobody can, because `/election/leader` is not a leader's (it is left as it is), or this replica cannot.
    Blocked {
        /// What is wrong and what to do, for the operator.
        problem: String,
    },
}

/// One replica that stands for leader.
#[derive(Debug)]
pub struct Candidate {
    registry: Registry,
    name: String,
    state: watch::Sender<ElectionState>,
    /// The last term in which it led.
    ended: Option<Term>,
    hints: Hints,
}

/// What an attempt to become the leader ended in.
enum Attempt {
    Elected(Term),
    /// It cannot be now, and this is why.
    Waits(ElectionState),
    /// Something changed meanwhile: look again.
    Overtaken,
}

impl Registry {
    /// A candidate for leader. Nothing is read or written until it [runs](Candidate::run). Operators know it by `name`.
    #[must_use]
    pub fn candidate(&self, name: impl Into<String>) -> Candidate {
        Candidate {
            registry: self.clone(),
            name: name.into(),
            state: watch::Sender::new(ElectionState::Unknown),
            ended: None,
            hints: Hints::new(self),
        }
    }
}

impl Candidate {
    /// Who leads, now and until the candidate has ended.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ElectionState> {
        self.state.subscribe()
    }

    /// Leads whenever it can, until `end`. While it leads, `work` runs, with the registry that its term fences; it is
    /// dropped, wherever it is, as soon as the term is known to be over. Work that ends by itself ends the term: let it
    /// do so on [`Error::TermLost`].
    pub async fn run<W, F>(mut self, end: impl Future<Output = ()>, mut work: F)
    where
        W: Future<Output = ()>,
        F: FnMut(Term, Registry) -> W,
    {
        tokio::select! {
            () = end => {}
            never = self.stand_and_lead(&mut work) => match never {},
        }
        // The work was dropped with the branch that lost.
        if let ElectionState::Leading(term) = *self.state.borrow() {
            tracing::info!(name = self.name, %term, "leads no more: told to end");
        }
        self.publish(ElectionState::Unknown);
        self.resign().await;
    }

    async fn stand_and_lead<W, F>(&mut self, work: &mut F) -> Infallible
    where
        W: Future<Output = ()>,
        F: FnMut(Term, Registry) -> W,
    {
        let mut waits = STAND_AGAIN.delays();
        loop {
            let term = self.win().await;
            self.publish(ElectionState::Leading(term));
            let began = Instant::now();
            let fenced = self.registry.fenced(term);
            let reason = tokio::select! {
                reason = self.lost(term) => reason,
                () = work(term, fenced) => "its work ended",
            };
            tracing::warn!(name = self.name, %term, reason, "leads no more");
            self.publish(ElectionState::Unknown);
            self.ended = Some(term);
            self.resign().await;
            if began.elapsed() >= LASTING {
                waits.reset();
            }
            sleep(waits.next_delay()).await;
        }
    }

    /// Stands until it is elected.
    async fn win(&mut self) -> Term {
        let mut delays = RETRY.delays();
        loop {
            self.hints.listen(&self.registry).await;
            let wait = match self.stand().await {
                Ok(Attempt::Elected(term)) => return term,
                Ok(Attempt::Waits(state)) => {
                    self.publish(state);
                    delays.reset();
                    jittered(RECHECK_INTERVAL)
                }
                Ok(Attempt::Overtaken) => delays.next_delay(),
                Err(error) => {
                    self.publish(cannot_stand(&error));
                    delays.next_delay()
                }
            };
            self.hints.next(wait).await;
        }
    }

    /// Looks who leads; if nobody does, tries to.
    async fn stand(&self) -> Result<Attempt> {
        let (tree, layout) = (&self.registry.tree, &self.registry.layout);
        let (leader, latest) = (layout.leader(), layout.term());
        match tree.get(&leader).await {
            Ok(node) => return Ok(self.found(&node).await),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let current = tree.exists(&latest).await?;
        let term = Term::after(current);
        let (record, began) = self.records(term);
        let began = encode(&latest, &began)?;
        let ops = vec![
            Op::Create {
                path: leader.clone(),
                data: encode(&leader, &record)?,
                mode: CreateMode::Ephemeral,
            },
            match current {
                Some(version) => set(latest, began, version),
                None => create(latest, began),
            },
        ];
        match tree.commit(ops).await {
            Ok(()) => Ok(Attempt::Elected(term)),
            Err(error) if error.is_not_found() && error.path() == Some(leader.as_str()) => {
                Err(self.registry.not_bootstrapped())
            }
            // The next look shows the outcome: the znode says the term that was begun with it.
            Err(error)
                if error.is_unknown_outcome() || error.is_conflict() || error.is_not_found() =>
            {
                Ok(Attempt::Overtaken)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What this candidate writes when it begins a term.
    fn records(&self, term: Term) -> (LeaderRecord, TermRecord) {
        let (name, number, since_ms) = (self.name.clone(), term.number(), now_ms());
        let leader = LeaderRecord {
            name: name.clone(),
            term: number,
            since_ms,
        };
        let term = TermRecord {
            number,
            name,
            since_ms,
        };
        (leader, term)
    }

    /// What follows from a leader's znode that is there.
    async fn found(&self, node: &Versioned) -> Attempt {
        if !node.mine {
            return Attempt::Waits(match leader_record(&self.registry.layout, node) {
                Ok(leader) => ElectionState::Following(leader),
                Err(problem) => ElectionState::Blocked { problem },
            });
        }
        let term = LeaderRecord::decode(&node.data).ok();
        match term.and_then(|record| Term::numbered(record.term)) {
            // Of a transaction whose answer was lost.
            Some(term) if self.ended != Some(term) => Attempt::Elected(term),
            // It could not be deleted when that term ended.
            _ => {
                self.resign().await;
                Attempt::Overtaken
            }
        }
    }

    /// Waits until this session leads in `term` no more, and says why.
    async fn lost(&mut self, term: Term) -> &'static str {
        let mut session = self.registry.tree.session();
        // Beside the looks, which without a connection take a moment each. Skipped over, it is seen by the next look.
        let expired = async {
            let seen = session.wait_for(|state| *state == SessionState::Expired);
            if seen.await.is_err() {
                // It cannot be: the tree is held.
                std::future::pending::<()>().await;
            }
        };
        let seen_lost = async {
            loop {
                self.hints.listen(&self.registry).await;
                if let Some(reason) = self.loss(term).await {
                    return reason;
                }
                self.hints.next(jittered(RECHECK_INTERVAL)).await;
            }
        };
        tokio::select! {
            () = expired => "its session ended",
            reason = seen_lost => reason,
        }
    }

    /// Why this session leads in `term` no more; `None` if it does, or if nobody says.
    async fn loss(&self, term: Term) -> Option<&'static str> {
        let (tree, layout) = (&self.registry.tree, &self.registry.layout);
        match tree.get(&layout.leader()).await {
            Ok(node) if node.mine => {}
            Ok(_) => return Some("its znode belongs to another session"),
            Err(error) if error.is_not_found() => return Some("its znode is gone"),
            Err(_) => return None,
        }
        match tree.exists(&layout.term()).await {
            Ok(Some(version)) if version == term.version() => None,
            Ok(_) => Some("the term was changed by somebody else"),
            Err(_) => None,
        }
    }

    /// Deletes the leader's znode if it is this session's.
    async fn resign(&self) {
        let path = self.registry.layout.leader();
        let tree = &self.registry.tree;
        let deleted = timeout(RESIGN_TIMEOUT, async {
            let node = tree.get(&path).await?;
            if node.mine {
                tree.delete(&path, Some(node.version)).await?;
            }
            Ok::<(), bismuth_coord::Error>(())
        });
        match deleted.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is_not_found() => {}
            Ok(Err(error)) => tracing::info!(
                path,
                error = chain(&error),
                "the leader's znode is not deleted; it goes with its session"
            ),
            Err(_) => tracing::info!(
                path,
                "the leader's znode is not deleted in time; it goes with its session"
            ),
        }
    }

    fn publish(&self, state: ElectionState) {
        self.state.send_if_modified(|current| {
            if *current == state {
                return false;
            }
            match &state {
                ElectionState::Unknown => {}
                ElectionState::Leading(term) => {
                    tracing::info!(name = self.name, %term, "leads");
                }
                ElectionState::Following(leader) => {
                    tracing::info!(leader = leader.name, term = leader.term, "another leads");
                }
                ElectionState::Blocked { problem } => {
                    tracing::error!(problem, "the election is blocked");
                }
            }
            *current = state;
            true
        });
    }
}

/// What an error of an attempt means.
fn cannot_stand(error: &Error) -> ElectionState {
    if error.is_unavailable() || matches!(error, Error::NotBootstrapped { .. }) {
        tracing::debug!(error = chain(error), "cannot find out who leads");
        return ElectionState::Unknown;
    }
    ElectionState::Blocked {
        problem: format!("this replica cannot lead: {}", chain(error)),
    }
}

/// Who leads, or what is wrong with the znode that should say so.
fn leader_record(layout: &Layout, node: &Versioned) -> Result<LeaderRecord, String> {
    let path = layout.leader();
    if !node.ephemeral {
        return Err(format!(
            "{path} is not ephemeral, so no bismuth-api wrote it, and none can lead while it is there: \
             `bismuthctl consistency --repair` deletes it"
        ));
    }
    LeaderRecord::decode(&node.data).map_err(|error| {
        format!(
            "{path} cannot be read ({error}): a later bismuth-api leads, or another program holds it; \
             it goes when that one ends"
        )
    })
}

/// What wakes a candidate before it is time to look again.
#[derive(Debug)]
struct Hints {
    session: watch::Receiver<SessionState>,
    /// Of everything below `/election`, while there could be one set.
    events: Option<Watch>,
}

impl Hints {
    fn new(registry: &Registry) -> Self {
        Self {
            session: registry.tree.session(),
            events: None,
        }
    }

    /// Sets the watch unless it is set. Call it before looking, so that nothing between the two is missed.
    async fn listen(&mut self, registry: &Registry) {
        if self.events.is_none() {
            self.events = registry.tree.watch(&registry.layout.election()).await.ok();
        }
    }

    /// Waits for an event, a change of the session, or as long as told. Safe to cancel: an event that was taken is one
    /// that the next look sees.
    async fn next(&mut self, longest: Duration) {
        let Self { session, events } = self;
        let event = async {
            match events {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // It cannot fail: the tree is held.
            Ok(()) = session.changed() => {}
            _ = event => {}
            () = sleep(longest) => {}
        }
    }
}
