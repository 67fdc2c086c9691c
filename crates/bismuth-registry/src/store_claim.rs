//! Claims and releases the services' embedded store: one node per environment holds it until it is released.

use bismuth_coord::Error as TreeError;
use bismuth_model::StoreClaim;

use crate::Registry;
use crate::error::Result;
use crate::transaction::{Attempts, Outcome, Proof, create, delete, encode};

impl Registry {
    /// Claims the services' data for one store on one node. Returns the claim that stands: this one, unless another store
    /// or another node has it. The same store on another node may be a copy, so it must wait for [`Registry::release_store`]
    /// like any other.
    ///
    /// # Errors
    /// [`Error::NotBootstrapped`](crate::Error::NotBootstrapped), and what every change may end in.
    pub async fn claim_store(&self, claim: &StoreClaim) -> Result<StoreClaim> {
        let path = self.layout.store();
        let data = encode(&path, claim)?;
        let proof = Proof::Holds(path.clone(), data.clone());
        let mut attempts = Attempts::new("claim the services' store".to_owned());
        loop {
            if let Some(stored) = self.read::<StoreClaim>(&path).await? {
                return Ok(stored.record);
            }
            let op = create(path.clone(), data.clone());
            match self.commit(attempts.act(), vec![op], &proof).await? {
                Outcome::Committed => return Ok(claim.clone()),
                Outcome::Refused(TreeError::NotFound { .. }) => self.make_services().await?,
                Outcome::Refused(error) if error.is_conflict() => {}
                Outcome::Refused(error) => return Err(error.into()),
            }
            attempts.next().await?;
        }
    }

    /// The claim that stands.
    ///
    /// # Errors
    /// [`Error::Tree`](crate::Error::Tree), [`Error::Record`](crate::Error::Record).
    pub async fn store_claim(&self) -> Result<Option<StoreClaim>> {
        let stored = self.read::<StoreClaim>(&self.layout.store()).await?;
        Ok(stored.map(|stored| stored.record))
    }

    /// Ends a claim, for a store that is lost or was moved. `false` if this claim does not stand.
    ///
    /// # Errors
    /// What every change may end in.
    pub async fn release_store(&self, claim: &StoreClaim) -> Result<bool> {
        let path = self.layout.store();
        let proof = Proof::Gone(path.clone());
        let mut attempts = Attempts::new("release the services' store".to_owned());
        loop {
            let version = match self.read::<StoreClaim>(&path).await? {
                Some(stored) if stored.record == *claim => stored.version,
                _ => return Ok(false),
            };
            let op = delete(path.clone(), version);
            match self.commit(attempts.act(), vec![op], &proof).await? {
                Outcome::Committed => return Ok(true),
                Outcome::Refused(error) if error.is_conflict() || error.is_not_found() => {
                    attempts.next().await?
                }
                Outcome::Refused(error) => return Err(error.into()),
            }
        }
    }

    /// The directory, which environments of earlier versions lack. Never makes the environment itself.
    async fn make_services(&self) -> Result<()> {
        if self.tree.exists(self.layout.root()).await?.is_none() {
            return Err(self.not_bootstrapped());
        }
        self.ensure(&self.layout.services()).await
    }
}
