//! Routes from hostnames to functions: the transaction steps that change them together with a function.

use std::collections::BTreeSet;

use bismuth_coord::Op;
use bismuth_model::{FunctionDefinition, FunctionId, FunctionRecord, Hostname};

use crate::Registry;
use crate::error::{Error, Result};
use crate::layout::canonical;
use crate::transaction::{create, delete, encode};

impl Registry {
    /// The step that leads a hostname to a function.
    pub(crate) fn create_route(&self, id: FunctionId, hostname: &Hostname) -> Result<Op> {
        let path = self.layout.route(hostname);
        let data = encode(&path, &id)?;
        Ok(create(path, data))
    }

    /// The steps from the routes as they are to those of the new definition. Looks at the route table and not only
    /// at the definitions, so that an earlier inconsistency between them is repaired on the way.
    pub(crate) async fn route_changes(
        &self,
        id: FunctionId,
        old: &FunctionDefinition,
        new: &FunctionDefinition,
    ) -> Result<Vec<Op>> {
        let wanted: BTreeSet<&Hostname> = new.routes.iter().map(|route| &route.hostname).collect();
        let mut all = wanted.clone();
        all.extend(old.routes.iter().map(|route| &route.hostname));
        let paths: Vec<String> = all
            .iter()
            .map(|hostname| self.layout.route(hostname))
            .collect();
        let mut ops = Vec::new();
        for ((hostname, path), found) in all
            .into_iter()
            .zip(&paths)
            .zip(self.read_many::<FunctionId>(&paths).await)
        {
            let found = match found {
                // Not ours to remove if it cannot be read: for the audit.
                Err(Error::Record { .. }) if !wanted.contains(hostname) => continue,
                found => found?,
            };
            match (found, wanted.contains(hostname)) {
                (None, true) => ops.push(self.create_route(id, hostname)?),
                (Some(route), true) if route.record != id => {
                    return Err(Error::RouteTaken {
                        hostname: hostname.clone(),
                        owner: route.record,
                    });
                }
                (Some(route), false) if route.record == id => {
                    ops.push(delete(path.clone(), route.version))
                }
                _ => {}
            }
        }
        Ok(ops)
    }

    /// The steps that remove every route to a function.
    pub(crate) async fn delete_routes(&self, id: FunctionId) -> Result<Vec<Op>> {
        let hostnames = match self.read::<FunctionRecord>(&self.layout.function(id)).await {
            Ok(record) => record
                .map(|record| {
                    record
                        .record
                        .definition
                        .routes
                        .into_iter()
                        .map(|route| route.hostname)
                        .collect()
                })
                .unwrap_or_default(),
            // Its own list cannot be read, so the whole table is.
            Err(Error::Record { .. }) => self.route_hostnames().await?,
            Err(error) => return Err(error),
        };
        let paths: Vec<String> = hostnames
            .iter()
            .map(|hostname| self.layout.route(hostname))
            .collect();
        let mut ops = Vec::new();
        for (path, found) in paths.iter().zip(self.read_many::<FunctionId>(&paths).await) {
            match found {
                Ok(Some(route)) if route.record == id => {
                    ops.push(delete(path.clone(), route.version))
                }
                // Somebody else's, or unreadable: for the audit.
                Ok(_) | Err(Error::Record { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ops)
    }

    /// The hostnames of the whole route table.
    async fn route_hostnames(&self) -> Result<Vec<Hostname>> {
        let names = self.names(&self.layout.routes()).await?.unwrap_or_default();
        Ok(names.iter().filter_map(|name| canonical(name)).collect())
    }
}
