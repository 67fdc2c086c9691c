//! Deployed definitions that are kept: reads them, and records what became of them.

use std::collections::BTreeMap;

use bismuth_coord::Op;
use bismuth_model::{FunctionId, Revision, RevisionFate, RevisionRecord};

use crate::containers::readable;
use crate::deployment::Deployment;
use crate::error::Result;
use crate::transaction::{Attempts, Outcome, Proof, encode, set};
use crate::{Function, Registry};

impl Registry {
    /// Reads a deployed definition that is kept.
    ///
    /// # Errors
    /// [`crate::Error::Record`] if it cannot be decoded, [`crate::Error::Tree`].
    pub async fn revision(
        &self,
        id: FunctionId,
        revision: Revision,
    ) -> Result<Option<RevisionRecord>> {
        let record = self.read(&self.layout.revision(id, revision)).await?;
        Ok(record.map(|stored| stored.record))
    }

    /// The deployed definitions that are kept and can be decoded, oldest first.
    ///
    /// # Errors
    /// [`crate::Error::Tree`].
    pub async fn kept_revisions(
        &self,
        deployment: &Deployment,
    ) -> Result<Vec<(Revision, RevisionRecord)>> {
        let revisions = deployment.revisions.iter();
        let paths: Vec<String> = revisions
            .map(|revision| self.layout.revision(deployment.id, *revision))
            .collect();
        let records = self.read_many::<RevisionRecord>(&paths).await;
        let mut kept = Vec::with_capacity(records.len());
        for (revision, record) in deployment.revisions.iter().zip(records) {
            let record = readable(record)?.flatten();
            kept.extend(record.map(|stored| (*revision, stored.record)));
        }
        Ok(kept)
    }

    /// The revision to go back to when none is named: the one that serves if another is wanted, else the newest before
    /// it that has run.
    ///
    /// # Errors
    /// [`crate::Error::Tree`].
    pub async fn rollback_target(&self, deployment: &Deployment) -> Result<Option<Revision>> {
        let wanted = deployment.wanted.revision;
        let serving = deployment.serving.revision();
        if serving.is_some_and(|serving| serving != wanted) {
            return Ok(serving);
        }
        let kept = self.kept_revisions(deployment).await?;
        let proven = kept
            .iter()
            .rev()
            .find(|(revision, kept)| *revision < wanted && kept.fate == RevisionFate::Proven);
        Ok(proven.map(|(revision, _)| *revision))
    }

    /// What became of the newest revision of each of these functions, where it is kept.
    ///
    /// # Errors
    /// [`crate::Error::Tree`].
    pub async fn newest_fates(
        &self,
        functions: &[Function],
    ) -> Result<BTreeMap<FunctionId, RevisionFate>> {
        let newest = functions.iter();
        let paths: Vec<String> = newest
            .map(|function| self.layout.revision(function.id, function.record.revision))
            .collect();
        let mut fates = BTreeMap::new();
        let records = self.read_many::<RevisionRecord>(&paths).await;
        for (function, record) in functions.iter().zip(records) {
            let record = readable(record)?.flatten();
            fates.extend(record.map(|stored| (function.id, stored.record.fate)));
        }
        Ok(fates)
    }

    /// Writes what became of a revision that is kept, unless that is known: what failed may be proven later, and what is
    /// proven stays so.
    ///
    /// # Errors
    /// What every change may end in.
    pub async fn record_fate(
        &self,
        id: FunctionId,
        revision: Revision,
        fate: RevisionFate,
    ) -> Result<()> {
        let act = format!("record the fate of revision {revision} of function {id}");
        let mut attempts = Attempts::new(act);
        while let Some(step) = self.fate_step(id, revision, fate.clone()).await? {
            let Op::Set { path, data, .. } = &step else {
                break;
            };
            let proof = Proof::Holds(path.clone(), data.clone());
            match self.commit(attempts.act(), vec![step], &proof).await? {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(error) if error.is_conflict() || error.is_not_found() => {
                    attempts.next().await?
                }
                Outcome::Refused(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The step that writes what became of a revision, unless that is known.
    pub(crate) async fn fate_step(
        &self,
        id: FunctionId,
        revision: Revision,
        fate: RevisionFate,
    ) -> Result<Option<Op>> {
        let path = self.layout.revision(id, revision);
        let stored = self.read::<RevisionRecord>(&path).await?;
        let news = |known: &RevisionFate| match known {
            RevisionFate::Pending => true,
            RevisionFate::Failed { .. } => fate == RevisionFate::Proven,
            RevisionFate::Proven => false,
        };
        let Some(stored) = stored.filter(|stored| news(&stored.record.fate)) else {
            return Ok(None);
        };
        let record = RevisionRecord {
            fate,
            ..stored.record
        };
        let data = encode(&path, &record)?;
        Ok(Some(set(path, data, stored.version)))
    }
}
