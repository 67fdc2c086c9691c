//! Finds the functions that use a service group.

use bismuth_model::{FunctionId, ServiceGroup};

use crate::Registry;
use crate::error::Result;

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
            let of_group = page
                .functions
                .into_iter()
                .filter(|function| function.record.definition.service_group(function.id) == *group);
            users.functions.extend(of_group.map(|function| function.id));
            after = page.next;
            if after.is_none() {
                return Ok(users);
            }
        }
    }
}
