//! Pending bytes: quota taken by uploads that are not committed yet.
//!
//! What a group uses is counted when a blob gets its bytes, and until then they are on the disk all the same: a hundred uploads at once
//! must not take a hundred times what the group may have. They are counted here, for this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::records::Refused;

/// Pending bytes by group.
#[derive(Debug, Default)]
pub(super) struct PendingBytes(Mutex<HashMap<String, u64>>);

/// What a group uses and may use, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByteQuota {
    /// What it uses without the blob that is replaced.
    pub(super) used: u64,
    /// What it may use.
    pub(super) limit: u64,
}

/// The bytes of one upload; dropping it takes them off.
#[derive(Debug)]
pub(super) struct PendingUpload {
    all: Arc<PendingBytes>,
    group: String,
    bytes: u64,
    /// `None` is unlimited.
    quota: Option<ByteQuota>,
}

impl PendingBytes {
    /// An upload of a group, with no bytes yet.
    pub(super) fn begin(self: &Arc<Self>, group: &str, quota: Option<ByteQuota>) -> PendingUpload {
        PendingUpload {
            all: Arc::clone(self),
            group: group.to_owned(),
            bytes: 0,
            quota,
        }
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingUpload {
    /// Counts so many bytes from now on, if there is room for them beside the group's other uploads. It never shrinks.
    ///
    /// # Errors
    /// When there is none; it counts what it did, then.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), Refused> {
        let Some(ByteQuota { used, limit }) = self.quota else {
            return Ok(());
        };
        let more = bytes.saturating_sub(self.bytes);
        let mut groups = self.all.groups();
        let pending = groups.get(&self.group).copied().unwrap_or_default();
        let needed = used.saturating_add(pending).saturating_add(more);
        if more > 0 && needed > limit {
            return Err(Refused::Bytes { needed, limit });
        }
        groups.insert(self.group.clone(), pending + more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for PendingUpload {
    fn drop(&mut self) {
        let mut groups = self.all.groups();
        if let Some(pending) = groups.get_mut(&self.group) {
            *pending = pending.saturating_sub(self.bytes);
            if *pending == 0 {
                groups.remove(&self.group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_of_a_group_share_what_is_left_to_it() {
        let all = Arc::new(PendingBytes::default());
        let quota = Some(ByteQuota {
            used: 40,
            limit: 100,
        });
        let (mut one, mut two) = (all.begin("a", quota), all.begin("a", quota));
        one.grow(40).unwrap();
        two.grow(20).unwrap();
        let (needed, limit) = (101, 100);
        assert_eq!(two.grow(21), Err(Refused::Bytes { needed, limit }));
        two.grow(5).unwrap();
        all.begin("b", quota).grow(60).unwrap();
        drop(one);
        two.grow(60).unwrap();
        drop(two);
        assert!(all.groups().is_empty());
        all.begin("a", None).grow(u64::MAX).unwrap();
    }
}
