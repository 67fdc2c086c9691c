//! Routes from hostnames to functions: the transaction steps that change them together with a function.

use std::collections::BTreeSet;

use bismuth_coord::Op;
use bismuth_model::{FunctionId, Hostname};

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

    /// The steps that claim the hostnames of `wanted` and give up the others of `old`. Looks at the route table, so that
    /// an earlier inconsistency with it is repaired on the way.
    pub(crate) async fn claim_changes(
        &self,
        id: FunctionId,
        old: BTreeSet<Hostname>,
        wanted: BTreeSet<Hostname>,
    ) -> Result<Vec<Op>> {
        let all: Vec<&Hostname> = wanted.union(&old).collect();
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
        let hostnames: Vec<Hostname> = match self.deployment(id).await {
            Ok(deployment) => {
                let claims = deployment.map(|deployment| deployment.claims());
                claims.unwrap_or_default().into_iter().collect()
            }
            // What it claimed cannot be read, so the whole table is.
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
