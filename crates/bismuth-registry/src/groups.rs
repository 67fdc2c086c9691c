//! Finds the functions that use a service group.

use std::collections::BTreeSet;

use bismuth_model::{FunctionId, Revision, RevisionRecord, ServiceGroup, Slot};

use crate::containers::readable;
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
                if function.record.definition.service_group(function.id) == *group {
                    users.functions.push(function.id);
                }
            }
            self.add_earlier_uses(&page.functions, group, &mut users)
                .await?;
            after = page.next;
            if after.is_none() {
                return Ok(users);
            }
        }
    }

    /// Adds the functions of which a revision that is not the wanted one has slots, and works on the data of a group; as
    /// unreadable those of which that is not to be known.
    async fn add_earlier_uses(
        &self,
        functions: &[Function],
        group: &ServiceGroup,
        users: &mut GroupUsers,
    ) -> Result<()> {
        let ids = functions.iter().map(|function| function.id);
        let paths: Vec<String> = ids.map(|id| self.layout.slots(id)).collect();
        let lists = self.read_many::<Vec<Slot>>(&paths).await;
        let mut earlier: BTreeSet<(FunctionId, Revision)> = BTreeSet::new();
        for (function, list) in functions.iter().zip(lists) {
            let Some(list) = readable(list)? else {
                users.unreadable.push(function.id);
                continue;
            };
            let slots = list.map(|list| list.record).unwrap_or_default();
            let revisions = slots.iter().map(|slot| slot.revision);
            let others = revisions.filter(|revision| *revision != function.record.revision);
            earlier.extend(others.map(|revision| (function.id, revision)));
        }
        let paths: Vec<String> = earlier
            .iter()
            .map(|(id, revision)| self.layout.revision(*id, *revision))
            .collect();
        let records = self.read_many::<RevisionRecord>(&paths).await;
        for ((id, _), record) in earlier.into_iter().zip(records) {
            match readable(record)?.flatten() {
                Some(kept) if kept.record.definition.service_group(id) != *group => {}
                Some(_) if users.functions.contains(&id) => {}
                Some(_) => users.functions.push(id),
                None => users.unreadable.push(id),
            }
        }
        Ok(())
    }
}
