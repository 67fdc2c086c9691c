//! Finds inconsistencies between routes and definitions. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bismuth_model::{FunctionId, Hostname};

use super::Inconsistency;
use super::check::{Audit, encoded, undecodable};
use crate::transaction::{check as unchanged, create, delete, set};

impl Audit<'_> {
    /// Compares the route table with the definitions.
    pub(super) fn routes(&mut self) {
        let mut claims: BTreeMap<&Hostname, Vec<FunctionId>> = BTreeMap::new();
        let scan = self.scan;
        for (id, function) in &scan.functions {
            let wanted = function.record.iter();
            let wanted = wanted.flat_map(|record| &record.definition.routes);
            let serving = scan.serving.get(id);
            let serving = serving.and_then(|serving| serving.record.as_ref().ok());
            let serving = serving.iter().flat_map(|serving| &serving.hostnames);
            let claimed: BTreeSet<&Hostname> =
                wanted.map(|route| &route.hostname).chain(serving).collect();
            for hostname in claimed {
                claims.entry(hostname).or_default().push(*id);
            }
        }
        let hostnames: BTreeSet<&Hostname> = claims
            .keys()
            .copied()
            .chain(self.scan.routes.keys())
            .collect();
        for hostname in hostnames {
            let claimants = claims.get(hostname).map(Vec::as_slice).unwrap_or_default();
            match claimants {
                [] => self.unclaimed_route(hostname),
                [claimant] => self.claimed_route(hostname, *claimant),
                several => {
                    let what = Inconsistency::RouteContested {
                        hostname: hostname.clone(),
                        functions: several.to_vec(),
                    };
                    self.find(what, "take it out of the definitions of all but one", None);
                }
            }
        }
    }

    /// A route that no definition has.
    fn unclaimed_route(&mut self, hostname: &Hostname) {
        let Some(route) = self.scan.routes.get(hostname) else {
            return;
        };
        let hostname = hostname.clone();
        let ops = Some(vec![delete(route.path.clone(), route.version)]);
        match &route.record {
            Err(reason) => self.find(
                undecodable(route, reason),
                "remove it; no definition has it",
                ops,
            ),
            Ok(function) => match self
                .scan
                .functions
                .get(function)
                .map(|function| &function.record)
            {
                None => {
                    let what = Inconsistency::RouteToMissingFunction {
                        hostname,
                        function: *function,
                    };
                    self.find(what, "remove the route", ops);
                }
                // What serves is not to be had, and may well have it.
                Some(Ok(_)) if self.serving_is_lost(*function) => {}
                Some(Ok(_)) => {
                    let what = Inconsistency::RouteUnclaimed {
                        hostname,
                        function: *function,
                    };
                    self.find(what, "remove the route, or add it to the definition", ops);
                }
                // It may well have it.
                Some(Err(_)) => {}
            },
        }
    }

    /// Whether a function that had a serving record has none that can be read.
    fn serving_is_lost(&self, function: FunctionId) -> bool {
        match self.scan.serving.get(&function) {
            Some(serving) => serving.record.is_err(),
            None => self.scan.slots.contains_key(&function),
        }
    }

    /// A route that one definition has.
    fn claimed_route(&mut self, hostname: &Hostname, claimant: FunctionId) {
        let Some(function) = self.scan.functions.get(&claimant) else {
            return;
        };
        let Some(data) = encoded(&claimant) else {
            return;
        };
        let guard = unchanged(function.path.clone(), function.version);
        let hostname = hostname.clone();
        let Some(route) = self.scan.routes.get(&hostname) else {
            let ops = vec![guard, create(self.layout.route(&hostname), data)];
            let what = Inconsistency::RouteMissing {
                hostname,
                function: claimant,
            };
            self.find(what, "add the route", Some(ops));
            return;
        };
        let ops = vec![guard, set(route.path.clone(), data, route.version)];
        match &route.record {
            Err(reason) => self.find(
                undecodable(route, reason),
                "lead it to the function whose definition has it",
                Some(ops),
            ),
            Ok(target) if *target != claimant => {
                // The other's definition may have it too, if only it could be read.
                let readable = self
                    .scan
                    .functions
                    .get(target)
                    .is_none_or(|other| other.record.is_ok());
                let what = Inconsistency::RouteElsewhere {
                    hostname,
                    function: claimant,
                    leads_to: *target,
                };
                self.find(
                    what,
                    "lead it to the function whose definition has it",
                    readable.then_some(ops),
                );
            }
            Ok(_) => {}
        }
    }
}
