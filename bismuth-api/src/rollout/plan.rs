//! What is to be done about the newest revision of a function. Pure.
//!
//! ```text
//!  slots of the newest revision        routing
//!  ───────────────────────────         ───────
//!  none                                stays
//!  not all proven, in time             stays; wait for proof         (Failed shows its reason meanwhile)
//!  not all proven, too late            stays; given up               (the next PUT supersedes them)
//!  not all proven, nothing is routed   switched unless it failed: a request may as well wait for the start
//!  all proven                          switched
//!
//!  What became of the newest revision is recorded once it has run, or is given up.
//!
//!  slots of earlier revisions, not routed: released once the routing has settled
//! ```
//!
//! Proven is what has run once: `Running`, or `Paused` or `Stopped` since.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use bismuth_model::{
    Backend, ContainerId, ContainerRecord, ContainerState, FunctionRecord, Revision, RevisionFate,
};
use bismuth_registry::audit::DEPLOYMENT_GRACE;

/// How long the image may take. After it the audit calls the slots left over, too.
const PULL_BOUND: Duration = DEPLOYMENT_GRACE;

/// Characters of a reason that are kept with the revision, beside a definition of up to 60 KiB.
const LONGEST_REASON: usize = 1000;

/// One function as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The newest revision.
    pub revision: Revision,
    /// What became of it, as it is recorded.
    pub fate: RevisionFate,
    /// When it was written, milliseconds since the Unix epoch.
    pub updated_ms: u64,
    /// How long its program may take to answer, milliseconds.
    pub startup_timeout_ms: u64,
    /// Where requests go.
    pub routed: Vec<Backend>,
    /// All slots, of any revision.
    pub slots: Vec<(Backend, ContainerRecord)>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take a slot away that nothing is routed to.
    Release(Backend),
    /// Send requests to these and no others.
    Switch(Vec<Backend>),
    /// Write down what became of the newest revision.
    Record(RevisionFate),
}

/// Why it is not over yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Slots that requests were just switched away from.
    Settle,
    /// The newest revision has not run yet.
    Proof {
        /// When it is given up, milliseconds since the Unix epoch.
        until_ms: u64,
    },
}

/// What to do now, and what to wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be made in this order; removal comes first.
    pub steps: Vec<Step>,
    /// To be looked at again when one of these has changed.
    pub waits: Vec<Wait>,
}

impl Plan {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.steps.is_empty() && self.waits.is_empty()
    }
}

impl Observed {
    /// From what the registry answered.
    #[must_use]
    pub fn new(
        function: &FunctionRecord,
        routed: Vec<Backend>,
        slots: Vec<(Backend, ContainerRecord)>,
        fate: RevisionFate,
    ) -> Self {
        Self {
            revision: function.revision,
            fate,
            updated_ms: function.updated_ms,
            startup_timeout_ms: function.definition.startup_timeout_ms,
            routed,
            slots,
        }
    }

    /// The slots of earlier revisions that nothing is routed to.
    pub(super) fn left_over(&self) -> impl Iterator<Item = Backend> {
        let old = self
            .slots
            .iter()
            .filter(|(_, record)| record.revision < self.revision);
        old.map(|(slot, _)| *slot)
            .filter(|slot| !self.routed.contains(slot))
    }

    /// The revisions that requests go to and that have run.
    pub(super) fn served_and_ran(&self) -> BTreeSet<Revision> {
        let served = self
            .slots
            .iter()
            .filter(|(slot, record)| self.routed.contains(slot) && record.status.state.has_run());
        served.map(|(_, record)| record.revision).collect()
    }

    fn deadline_ms(&self) -> u64 {
        let pull = u64::try_from(PULL_BOUND.as_millis()).unwrap_or(u64::MAX);
        self.updated_ms
            .saturating_add(pull)
            .saturating_add(self.startup_timeout_ms)
    }
}

/// Decides. `settled` tells whether requests have been switched away from a slot long enough ago.
pub fn plan(observed: &Observed, now_ms: u64, settled: impl Fn(ContainerId) -> bool) -> Plan {
    let mut plan = Plan::default();
    for slot in observed.left_over() {
        if settled(slot.container_id) {
            plan.steps.push(Step::Release(slot));
        } else if !plan.waits.contains(&Wait::Settle) {
            plan.waits.push(Wait::Settle);
        }
    }
    let newest: Vec<&(Backend, ContainerRecord)> = observed
        .slots
        .iter()
        .filter(|(_, record)| record.revision == observed.revision)
        .collect();
    let wanted: Vec<Backend> = newest.iter().map(|(slot, _)| *slot).collect();
    if wanted.is_empty() {
        return plan;
    }
    let until_ms = observed.deadline_ms();
    let in_time = now_ms < until_ms;
    let serves = same(&wanted, &observed.routed);
    let mut states = newest.iter().map(|(_, record)| record.status.state);
    let proven = if serves {
        states.any(ContainerState::has_run)
    } else {
        in_time && states.all(ContainerState::has_run)
    };
    let failed = matches!(observed.fate, RevisionFate::Failed { .. });
    if serves && proven && observed.fate != RevisionFate::Proven {
        plan.steps.push(Step::Record(RevisionFate::Proven));
    } else if !serves && (proven || observed.routed.is_empty() && !failed) {
        plan.steps.push(Step::Switch(wanted));
    } else if !proven {
        plan.steps.extend(failure(&observed.fate, &newest, in_time));
        let waits = !serves || observed.fate != RevisionFate::Proven;
        plan.waits
            .extend((in_time && waits).then_some(Wait::Proof { until_ms }));
    }
    plan
}

/// To record that the newest revision failed, or did not run in time; it may be proven all the same later.
fn failure(
    fate: &RevisionFate,
    newest: &[&(Backend, ContainerRecord)],
    in_time: bool,
) -> Option<Step> {
    let failed = newest
        .iter()
        .find(|(_, record)| record.status.state == ContainerState::Failed);
    if *fate != RevisionFate::Pending || (in_time && failed.is_none()) {
        return None;
    }
    let why = failed.or(newest.first());
    let reason = why.and_then(|(_, record)| record.status.reason.clone());
    let reason = reason.unwrap_or_else(|| "it did not run in time".to_owned());
    Some(Step::Record(RevisionFate::Failed {
        reason: reason.chars().take(LONGEST_REASON).collect(),
    }))
}

fn same(a: &[Backend], b: &[Backend]) -> bool {
    a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>()
}
