//! Migration: gives functions of earlier versions their slot list, their serving record and their kept revision.

use bismuth_model::{Backend, ContainerRecord, FunctionId};

use crate::Registry;
use crate::deployment::Deployment;
use crate::error::Result;
use crate::transaction::{Attempts, Outcome};

impl Registry {
    /// The functions that were written by a version without slot lists.
    ///
    /// # Errors
    /// [`crate::Error::NotBootstrapped`], [`crate::Error::Tree`].
    pub async fn unmigrated_functions(&self) -> Result<Vec<FunctionId>> {
        let ids = self.function_ids().await?;
        let paths: Vec<String> = ids.iter().map(|id| self.layout.slots(*id)).collect();
        let mut unmigrated = Vec::new();
        for (id, slots) in ids.into_iter().zip(self.get_many(&paths).await) {
            match slots {
                Ok(_) => {}
                Err(error) if error.is_not_found() => unmigrated.push(id),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(unmigrated)
    }

    /// Gives a function the records that a version before slot lists did not write, by what nodes are to run of it:
    /// `assigned`. `false` if it has them.
    ///
    /// # Errors
    /// As every change.
    pub async fn migrate_function(
        &self,
        id: FunctionId,
        assigned: &[(Backend, ContainerRecord)],
    ) -> Result<bool> {
        let mut attempts = Attempts::new(format!("migrate function {id}"));
        loop {
            let Some(before) = self.unmigrated_deployment(id, assigned).await? else {
                return Ok(false);
            };
            if !before.needs_migration() {
                return Ok(false);
            }
            let written = |after: &Deployment| self.written(&before, after);
            let done = self.commit_deployment(attempts.act(), &before, before.clone(), written);
            match done.await? {
                Outcome::Committed => return Ok(true),
                Outcome::Refused(error) => self.explain_refusal(id, error).await?,
            }
            attempts.next().await?;
        }
    }
}
