//! The routing table: an immutable snapshot, built beside the old one and swapped whole.
//!
//! ```text
//! RoutingSnapshot ──build──► RoutingTable { hosts, functions: id → Function { slots in order } }
//! old RoutingTable ──loads──────┘                                          └─ Load (shared by tables)
//! ```
//!
//! Everything a request would compute again and again is computed here once: the order of a function's slots, the path
//! prefix and the address of each.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bismuth_model::{Affinity, Backend, ContainerId, FunctionId, Hostname};
use bismuth_registry::{RoutedFunction, RoutingSnapshot};

use crate::backend_selection;

/// Where requests go, at one moment.
#[derive(Debug, Default)]
pub struct RoutingTable {
    /// Whether the registry was read as a whole at least once, now or in the run that left the snapshot file.
    pub complete: bool,
    hosts: HashMap<Box<str>, FunctionId>,
    functions: HashMap<FunctionId, Arc<Function>>,
}

/// What a node may need beyond its own bounds to say what went wrong.
const NODE_MARGIN: Duration = Duration::from_secs(5);

/// One function's part of the table.
#[derive(Debug)]
pub struct Function {
    pub id: FunctionId,
    /// Requests of this frontend that one container gets at a time while another has room.
    pub concurrency: u32,
    /// To the head of the response.
    pub timeout: Duration,
    /// Silence in a stream.
    pub idle_timeout: Duration,
    /// The longest that starting its program may take.
    pub startup_timeout: Duration,
    /// What keeps a client on one container.
    pub affinity: Option<Affinity>,
    /// In the order every frontend computes alike.
    pub slots: Vec<Slot>,
}

/// One container that a node serves.
#[derive(Debug)]
pub struct Slot {
    pub container_id: ContainerId,
    pub node: Ipv4Addr,
    /// The node's address and data port.
    pub address: SocketAddr,
    /// `/invoke/{container id}`.
    pub prefix: Box<str>,
    /// Requests of this frontend in flight there.
    pub load: Arc<Load>,
}

/// Requests in flight to one container, from all workers, over all tables.
#[derive(Debug, Default)]
pub struct Load(AtomicU32);

impl Load {
    /// How many there are. Another worker may add one meanwhile: `concurrency` is a preference here, the node enforces it.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one until the answer is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }
}

/// One request in flight.
#[derive(Debug)]
pub struct InFlight(Arc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RoutingTable {
    /// Builds the table for a snapshot; loads of containers that are in `old` too are carried over.
    pub fn build(snapshot: &RoutingSnapshot, node_port: u16, old: &RoutingTable) -> Self {
        let functions = snapshot.functions.iter().map(|(id, routed)| {
            let loads = old.functions.get(id).map_or(&[][..], |old| &old.slots);
            (
                *id,
                Arc::new(Function::build(*id, routed, node_port, loads)),
            )
        });
        // A claimed hostname routes once the function that has it says so.
        let routes = |host: &Hostname, id: &FunctionId| {
            let function = snapshot.functions.get(id);
            let routed = function.and_then(|function| function.hostnames.as_ref());
            routed.is_none_or(|hostnames| hostnames.contains(host))
        };
        let hosts = snapshot.routes.iter().filter(|(host, id)| routes(host, id));
        RoutingTable {
            complete: snapshot.complete,
            hosts: hosts
                .map(|(host, id)| (host.as_str().into(), *id))
                .collect(),
            functions: functions.collect(),
        }
    }

    /// The function that a hostname leads to, by its canonical text.
    pub fn route(&self, host: &str) -> Option<FunctionId> {
        self.hosts.get(host).copied()
    }

    /// Whether any hostname leads anywhere.
    pub fn has_routes(&self) -> bool {
        !self.hosts.is_empty()
    }

    pub fn function(&self, id: &FunctionId) -> Option<&Arc<Function>> {
        self.functions.get(id)
    }

    /// How many functions and hostnames there are.
    pub fn size(&self) -> (usize, usize) {
        (self.functions.len(), self.hosts.len())
    }
}

impl Function {
    /// The longest that a node which obeys the definition takes to the head of an answer: in its queue as long as the
    /// program may take, then the start, then the program. This hop must not give up before the node can say why.
    pub fn longest_wait(&self) -> Duration {
        2 * self.timeout + self.startup_timeout + NODE_MARGIN
    }

    fn build(id: FunctionId, routed: &RoutedFunction, node_port: u16, old: &[Slot]) -> Self {
        let mut slots: Vec<_> = routed
            .backends
            .iter()
            .map(|backend| Slot::build(backend, node_port, old))
            .collect();
        let key = backend_selection::hash(id.as_bytes());
        slots.sort_by_cached_key(|slot| {
            std::cmp::Reverse(backend_selection::score(key, &slot.container_id))
        });
        Function {
            id,
            concurrency: routed.concurrency,
            timeout: routed.timeout,
            idle_timeout: routed.idle_timeout,
            startup_timeout: routed.startup_timeout,
            affinity: routed.affinity.clone(),
            slots,
        }
    }
}

impl Slot {
    fn build(backend: &Backend, node_port: u16, old: &[Slot]) -> Self {
        let container_id = backend.container_id;
        let known = old.iter().find(|slot| slot.container_id == container_id);
        Slot {
            container_id,
            node: backend.ip,
            address: (backend.ip, node_port).into(),
            prefix: format!("/invoke/{container_id}").into(),
            load: known.map(|slot| slot.load.clone()).unwrap_or_default(),
        }
    }
}

/// A `Host` field as the table knows hostnames, or `None` if it cannot be one.
pub fn canonical_host(field: &str) -> Option<Hostname> {
    let name = match field.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => field,
    };
    Hostname::parse(name).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn routed(backends: &[Backend]) -> RoutedFunction {
        RoutedFunction {
            backends: backends.into(),
            concurrency: 2,
            timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5),
            startup_timeout: Duration::from_secs(5),
            affinity: None,
            hostnames: None,
        }
    }

    pub(crate) fn backend(last: u8) -> Backend {
        Backend {
            ip: Ipv4Addr::new(127, 0, 0, last),
            container_id: ContainerId::from_bytes([last; 16]),
        }
    }

    fn snapshot(id: FunctionId, backends: &[Backend]) -> RoutingSnapshot {
        RoutingSnapshot {
            functions: [(id, routed(backends))].into(),
            routes: [(Hostname::parse("a.example").unwrap(), id)].into(),
            complete: true,
            ..Default::default()
        }
    }

    #[test]
    fn the_order_of_slots_does_not_depend_on_the_order_of_the_list() {
        let id = FunctionId::from_bytes([7; 16]);
        let backends: Vec<_> = (1..9).map(backend).collect();
        let reversed: Vec<_> = backends.iter().rev().copied().collect();
        let order = |backends: &[Backend]| -> Vec<_> {
            let table =
                RoutingTable::build(&snapshot(id, backends), 8001, &RoutingTable::default());
            let slots = table.function(&id).unwrap().slots.iter();
            slots.map(|slot| slot.container_id).collect()
        };
        assert_eq!(order(&backends), order(&reversed));
    }

    #[test]
    fn loads_outlive_the_table_they_were_counted_in() {
        let id = FunctionId::from_bytes([7; 16]);
        let old = RoutingTable::build(&snapshot(id, &[backend(1)]), 8001, &RoutingTable::default());
        let in_flight = old.function(&id).unwrap().slots[0].load.enter();
        let new = RoutingTable::build(&snapshot(id, &[backend(1), backend(2)]), 8001, &old);
        let load = |table: &RoutingTable| -> u32 {
            let slots = &table.function(&id).unwrap().slots;
            slots.iter().map(|slot| slot.load.get()).sum()
        };
        assert_eq!(load(&new), 1);
        drop(in_flight);
        assert_eq!(load(&new), 0);
    }

    #[test]
    fn a_claimed_hostname_routes_only_when_the_function_serves_it() {
        let id = FunctionId::from_bytes([7; 16]);
        let mut snapshot = snapshot(id, &[]);
        let wanted = Hostname::parse("wanted.example").unwrap();
        snapshot.routes.insert(wanted, id);
        let served = Hostname::parse("a.example").unwrap();
        snapshot.functions.get_mut(&id).unwrap().hostnames = Some([served].into());
        let table = RoutingTable::build(&snapshot, 8001, &RoutingTable::default());
        assert_eq!(table.route("a.example"), Some(id));
        assert_eq!(table.route("wanted.example"), None);
    }

    #[test]
    fn hosts_are_found_without_port_case_and_trailing_dot() {
        let id = FunctionId::from_bytes([7; 16]);
        let table = RoutingTable::build(&snapshot(id, &[]), 8001, &RoutingTable::default());
        for host in [
            "a.example",
            "A.Example",
            "a.example.",
            "a.example:8000",
            "a.example.:80",
        ] {
            let host = canonical_host(host).unwrap();
            assert_eq!(table.route(host.as_str()), Some(id), "{host:?}");
        }
        assert_eq!(table.route("b.example"), None);
    }
}
