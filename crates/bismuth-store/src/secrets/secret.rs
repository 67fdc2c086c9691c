//! A secret as it is read, and the trait for reading it.

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::records::{EngineError, Revision};

/// A secret, opened.
pub struct Secret {
    /// Its bytes, overwritten when they are dropped.
    pub value: Zeroizing<Vec<u8>>,
    /// Counts the values it has had, since it was last made: after a deletion it begins anew.
    pub version: u64,
    /// Names this value for ever, and no other: what the `ETag` is made of.
    pub revision: Revision,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Secret");
        debug
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Where secrets are.
#[async_trait]
pub trait SecretStore: Send + Sync + 'static {
    /// A secret's current value, or the one it had in an earlier version; `None` if there is none, or no such version.
    ///
    /// # Errors
    /// [`EngineError::Broken`] also when what is stored is not what was sealed.
    async fn get(
        &self,
        group: &str,
        name: &str,
        version: Option<u64>,
    ) -> Result<Option<Secret>, EngineError>;
}
