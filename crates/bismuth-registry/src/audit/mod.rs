//! Audit: finds inconsistencies between records in the tree, and repairs them.
//!
//! ```text
//!  walk everything ─► check (pure) ─┐
//!  walk everything ─► check (pure) ─┴─► what both found ─► Finding { what, how to repair, repair? } ─► repair
//! ```
//!
//! The tree is not read at one instant, so what a change under way looks like halfway is found once and not twice.
//! A repair is one transaction that checks the versions of all it concluded from: when anything changed since, it
//! does nothing and says so. Nothing in normal operation leaves an inconsistency; they come from manual edits, from
//! restored backups, and from faults that this is here to show.

mod check;
mod inconsistency;
mod routes;
mod scan;
mod slots;

use std::fmt;
use std::time::Duration;

use bismuth_base::now_ms;
use bismuth_coord::Op;

use crate::Registry;
use crate::error::{Error, Result};
use crate::transaction::{Outcome, Proof};

pub use inconsistency::Inconsistency;

/// How long a slot may be assigned without being a backend: a deployment proves its slots before it switches, and
/// pulling an image and starting takes at most ten minutes or so.
pub const DEPLOYMENT_GRACE: Duration = Duration::from_secs(15 * 60);

/// How often [`Registry::repair_all`] looks again after it repaired something. One repair may uncover another
/// finding, and those about one record are repaired one after the other.
const ROUNDS: usize = 32;

/// A inconsistency.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What is inconsistent.
    pub what: Inconsistency,
    /// What to do about it, for the operator.
    pub how_to_repair: String,
    /// What a program can do about it.
    pub repair: Option<Repair>,
}

/// A transaction that repairs a finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Repair {
    ops: Vec<Op>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.how_to_repair)
    }
}

impl Registry {
    /// Finds inconsistencies. Slots that are younger than [`DEPLOYMENT_GRACE`] may be unlisted.
    ///
    /// # Errors
    /// [`Error::NotBootstrapped`], [`Error::Tree`].
    pub async fn audit(&self) -> Result<Vec<Finding>> {
        self.audit_with(DEPLOYMENT_GRACE).await
    }

    /// As [`Self::audit`], with another grace for deployments under way.
    ///
    /// # Errors
    /// As [`Self::audit`].
    pub async fn audit_with(&self, deployment_grace: Duration) -> Result<Vec<Finding>> {
        let first = self.look(deployment_grace).await?;
        if first.is_empty() {
            return Ok(first);
        }
        let mut second = self.look(deployment_grace).await?;
        second.retain(|finding| first.iter().any(|earlier| earlier.what == finding.what));
        Ok(second)
    }

    async fn look(&self, deployment_grace: Duration) -> Result<Vec<Finding>> {
        let scan = self.scan().await?;
        let grace_ms = u64::try_from(deployment_grace.as_millis()).unwrap_or(u64::MAX);
        Ok(check::check(
            &self.layout,
            &scan,
            now_ms().saturating_sub(grace_ms),
        ))
    }

    /// Repairs one finding.
    ///
    /// # Errors
    /// [`Error::NotRepairable`], [`Error::FindingStale`] if something changed since, and what every change may end
    /// in.
    pub async fn repair(&self, finding: &Finding) -> Result<()> {
        let what = finding.what.to_string();
        let Some(repair) = &finding.repair else {
            return Err(Error::NotRepairable {
                what,
                how_to_repair: finding.how_to_repair.clone(),
            });
        };
        let Some(proof) = repair.proof() else {
            return Ok(());
        };
        match self
            .commit(&format!("repair that {what}"), repair.ops.clone(), &proof)
            .await?
        {
            Outcome::Committed => Ok(()),
            Outcome::Refused(error) if error.is_conflict() || error.is_not_found() => {
                Err(Error::FindingStale { what })
            }
            Outcome::Refused(error) => Err(error.into()),
        }
    }

    /// Repairs all that can be repaired, looking again after each round. Answers what was repaired, and what is left.
    ///
    /// # Errors
    /// As [`Self::audit`] and [`Self::repair`], but for findings that went stale, which the next round sees anew.
    pub async fn repair_all(
        &self,
        deployment_grace: Duration,
    ) -> Result<(Vec<Finding>, Vec<Finding>)> {
        let mut repaired = Vec::new();
        for _ in 0..ROUNDS {
            let findings = self.audit_with(deployment_grace).await?;
            let mut progress = false;
            for finding in findings.iter().filter(|finding| finding.repair.is_some()) {
                match self.repair(finding).await {
                    Ok(()) => {
                        progress = true;
                        repaired.push(finding.clone());
                    }
                    Err(Error::FindingStale { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if !progress {
                return Ok((repaired, findings));
            }
        }
        let left = self.audit_with(deployment_grace).await?;
        Ok((repaired, left))
    }
}

impl Repair {
    /// What shows that it was made: its last change. Checks alone change nothing.
    fn proof(&self) -> Option<Proof> {
        self.ops.iter().rev().find_map(|op| match op {
            Op::Create { path, .. } => Some(Proof::Exists(path.clone())),
            Op::Set { path, data, .. } => Some(Proof::Holds(path.clone(), data.clone())),
            Op::Delete { path, .. } => Some(Proof::Gone(path.clone())),
            Op::Check { .. } => None,
        })
    }
}
