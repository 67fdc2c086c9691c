//! What the store may hold, given what was acknowledged.
//!
//! ```text
//!   try ─► open ─┬─ did ─► known: the change with the highest revision wins
//!                ├─ not ─► never was
//!                └─ killed ─► made or not, which is seen in the store: then that is known
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::AddAssign;

use anyhow::{Context as _, Result, bail, ensure};
use bismuth_store::records::RecordKey;
use bismuth_store::records::pending_batch::Owner;

use crate::plan::{Effect, Id, Plan, SETS, is_counter, members};
use crate::victim::Line;

/// What is at a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holds {
    #[default]
    Nothing,
    /// What this attempt has put, whole.
    Content(Id),
    Sum(i64),
}

/// The state of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub revision: u64,
    pub holds: Holds,
}

/// Everything that is in a store.
pub type Found = BTreeMap<RecordKey, State>;

/// What has happened to a store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub acknowledged: usize,
    /// On their way when the victim was killed.
    pub open: usize,
    /// As many of these as are known to have been made.
    pub made: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.open += other.open;
        self.made += other.made;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            acknowledged,
            open,
            made,
        } = self;
        write!(
            f,
            "{acknowledged} changes acknowledged, {open} on their way, at least {made} of them made"
        )
    }
}

/// Revisions that were given in one keyspace of one group.
#[derive(Debug, Default)]
struct Revisions {
    /// The highest of earlier lives; what comes is higher.
    floor: u64,
    /// Those of this one.
    given: BTreeSet<u64>,
}

#[derive(Debug)]
pub struct Model {
    pub plan: Plan,
    pub tally: Tally,
    known: Found,
    open: BTreeMap<Id, Vec<(RecordKey, Effect)>>,
    revisions: BTreeMap<Owner, Revisions>,
}

impl Model {
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            tally: Tally::default(),
            known: Found::new(),
            open: BTreeMap::new(),
            revisions: BTreeMap::new(),
        }
    }

    pub fn record_line(&mut self, line: &Line) -> Result<()> {
        match line {
            Line::Opening => {}
            Line::Attempted(id) => {
                self.open.insert(*id, self.plan.effects(*id));
            }
            Line::Refused(id) => {
                self.open.remove(id).context("it was not attempted")?;
            }
            Line::Acknowledged(id, revisions) => self.acknowledged(*id, revisions)?,
        }
        Ok(())
    }

    fn acknowledged(&mut self, id: Id, revisions: &[u64]) -> Result<()> {
        let effects = self.open.remove(&id).context("it was not attempted")?;
        self.tally.acknowledged += 1;
        if let ([(record_key, Effect::Delete)], []) = (effects.as_slice(), revisions) {
            // A blob of one task, of which this was the last change.
            self.known.entry(record_key.clone()).or_default().holds = Holds::Nothing;
            return Ok(());
        }
        ensure!(
            effects.len() == revisions.len(),
            "it is answered otherwise than asked"
        );
        for ((record_key, effect), &revision) in effects.iter().zip(revisions) {
            self.give(record_key, revision)?;
            let known = self.known.entry(record_key.clone()).or_default();
            let is_last = revision > known.revision;
            known.revision = known.revision.max(revision);
            match effect {
                Effect::Add(delta) => known.holds = Holds::Sum(sum(*known)? + delta),
                Effect::Put if is_last => known.holds = Holds::Content(id),
                Effect::Delete if is_last => known.holds = Holds::Nothing,
                Effect::Put | Effect::Delete => {}
            }
        }
        Ok(())
    }

    /// A revision is seen for the first time.
    fn give(&mut self, record_key: &RecordKey, revision: u64) -> Result<()> {
        let revisions = self.revisions.entry(Owner::of(record_key)).or_default();
        let floor = revisions.floor;
        ensure!(
            revision > floor,
            "revision {revision} of {record_key:?} is not higher than {floor}, which there was before"
        );
        let is_new = revisions.given.insert(revision);
        ensure!(
            is_new,
            "revision {revision} of {record_key:?} was given before, in this life"
        );
        Ok(())
    }

    /// Compares with what was found, which is known from now on.
    pub fn settle(&mut self, found: Found) -> Result<()> {
        sets_are_whole(&found)?;
        let contents = found.values().filter_map(|state| match state.holds {
            Holds::Content(id) => Some(id),
            Holds::Nothing | Holds::Sum(_) => None,
        });
        let made: BTreeSet<Id> = contents.filter(|id| self.open.contains_key(id)).collect();
        self.tally.open += self.open.len();
        self.tally.made += made.len();

        let mut open: BTreeMap<RecordKey, Vec<(Id, Effect)>> = BTreeMap::new();
        for (id, effects) in std::mem::take(&mut self.open) {
            for (record_key, effect) in effects {
                open.entry(record_key).or_default().push((id, effect));
            }
        }
        let record_keys = self.known.keys().chain(open.keys()).chain(found.keys());
        let record_keys: BTreeSet<RecordKey> = record_keys.cloned().collect();
        for record_key in &record_keys {
            let state = found.get(record_key).copied().unwrap_or_default();
            let open = open.get(record_key).map_or(&[][..], Vec::as_slice);
            self.check_record(record_key, state, open, &made)
                .with_context(|| format!("{record_key:?} is {state:?}"))?;
        }
        self.known = found;
        for revisions in self.revisions.values_mut() {
            let highest = revisions.given.pop_last();
            revisions.floor = revisions.floor.max(highest.unwrap_or_default());
            revisions.given.clear();
        }
        Ok(())
    }

    fn check_record(
        &mut self,
        record_key: &RecordKey,
        found: State,
        open: &[(Id, Effect)],
        made: &BTreeSet<Id>,
    ) -> Result<()> {
        let known = self.known.get(record_key).copied().unwrap_or_default();
        let changed = if is_counter(record_key) {
            check_sum(known, found, open, made)?
        } else {
            check_content(known, found, open)?
        };
        if changed {
            self.give(record_key, found.revision)?;
        }
        Ok(())
    }
}

/// Whether it has a revision of which nobody was told.
fn check_sum(
    known: State,
    found: State,
    open: &[(Id, Effect)],
    made: &BTreeSet<Id>,
) -> Result<bool> {
    let added = |of: &dyn Fn(Id) -> bool| -> i64 {
        let added = open.iter().map(|(id, effect)| match effect {
            Effect::Add(delta) if of(*id) => *delta,
            _ => 0,
        });
        added.sum()
    };
    let acknowledged = sum(known)?;
    let least = acknowledged + added(&|id| made.contains(&id));
    let most = acknowledged + added(&|_| true);
    ensure!(
        (least..=most).contains(&sum(found)?),
        "it must be {least} to {most}"
    );
    // One that is open may have been made before one that was acknowledged.
    let changed = found.revision != known.revision;
    ensure!(
        !changed || (found.revision > known.revision && sum(found)? > acknowledged),
        "there was {known:?}"
    );
    Ok(changed)
}

/// Whether it has a revision of which nobody was told.
fn check_content(known: State, found: State, open: &[(Id, Effect)]) -> Result<bool> {
    match found.holds {
        Holds::Nothing => {
            let deleted = open.iter().any(|(_, effect)| *effect == Effect::Delete);
            ensure!(
                known.holds == Holds::Nothing || deleted,
                "{known:?} was acknowledged, and nobody has deleted it"
            );
            Ok(false)
        }
        Holds::Content(_) if found.holds == known.holds => {
            ensure!(
                found.revision == known.revision,
                "{known:?} was acknowledged"
            );
            Ok(false)
        }
        Holds::Content(id) => {
            ensure!(
                open.contains(&(id, Effect::Put)),
                "{known:?} was acknowledged, and this was not on its way"
            );
            ensure!(
                found.revision > known.revision,
                "{known:?} was acknowledged, and this is older"
            );
            Ok(true)
        }
        Holds::Sum(_) => bail!("nobody adds to it"),
    }
}

fn sum(state: State) -> Result<i64> {
    match state.holds {
        Holds::Nothing => Ok(0),
        Holds::Sum(sum) => Ok(sum),
        Holds::Content(_) => bail!("nobody puts a counter"),
    }
}

fn sets_are_whole(found: &Found) -> Result<()> {
    for set in 0..SETS {
        let states =
            members(set).map(|record_key| found.get(&record_key).copied().unwrap_or_default());
        let [a, at_other, c] = states;
        let same = a.holds == at_other.holds && a.holds == c.holds;
        // Of one batch, one after the other.
        let together = a.holds == Holds::Nothing || a.revision + 1 == c.revision;
        ensure!(same && together, "the set {set} is not whole: {states:?}");
    }
    Ok(())
}
