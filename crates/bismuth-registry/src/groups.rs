//! Finds the functions that use a service group.

use std::collections::BTreeSet;

use bismuth_model::{FunctionId, Revision, ServiceGroup, Slot};

use crate::error::Result;
use crate::{Function, Registry};

/// Functions read at a time.
const PAGE: usize = 500;

/// Who works on the data of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupUsers {
    /// Functions of the group, in the order of their ids.
    pub functions: Vec<FunctionId>,
    /// Functions whose records cannot be read, so that nobody knows.
    pub unreadable: Vec<FunctionId>,
}

impl GroupUsers {
    /// Whether surely nobody does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.unreadable.is_empty()
    }
}

impl Registry {
    /// The functions that work on the data of a group. Reads all functions.
    ///
    /// # Errors
    /// [`Error::NotBootstrapped`](crate::Error::NotBootstrapped), [`Error::Tree`](crate::Error::Tree).
    pub async fn group_users(&self, group: &ServiceGroup) -> Result<GroupUsers> {
        let (mut users, mut after) = (GroupUsers::default(), None);
        loop {
            let page = self.list_functions(after, PAGE).await?;
            users.unreadable.extend(page.unreadable);
            for function in &page.functions {
                let wanted = function.record.definition.service_group(function.id);
                if wanted == *group || self.earlier_use(function, group).await? {
                    users.functions.push(function.id);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(users);
            }
        }
    }

    /// Whether a revision that is not the wanted one has slots, and works on the data of a group.
    async fn earlier_use(&self, function: &Function, group: &ServiceGroup) -> Result<bool> {
        let id = function.id;
        let slots = self.read::<Vec<Slot>>(&self.layout.slots(id)).await?;
        let slots = slots.map(|slots| slots.record).unwrap_or_default();
        let revisions: BTreeSet<Revision> = slots.iter().map(|slot| slot.revision).collect();
        for revision in revisions {
            if revision == function.record.revision {
                continue;
            }
            let kept = self.revision(id, revision).await?;
            if kept.is_some_and(|kept| kept.definition.service_group(id) == *group) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
