//! Chooses a node for each new slot. Pure.
//!
//! ```text
//!  nodes ─► may it take one at all? ─► for each slot the best of them:
//!           schedulable, alive,        not overcommitted by it
//!           large enough               ─► fewest new slots of this function
//!                                      ─► most room left (the scarcer of memory and cpu)
//!                                      ─► lowest address
//! ```
//!
//! Nodes may be overcommitted, because most slots are idle most of the time; it is only done when no
//! other node is left.

use std::cmp::Ordering;
use std::fmt;
use std::net::Ipv4Addr;

/// What one slot may use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    /// Cores.
    pub cpu: f64,
    /// Bytes.
    pub memory: u64,
}

/// What a living node has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Cores.
    pub cores: f64,
    /// Bytes.
    pub memory: u64,
}

/// A node that may get slots.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub ip: Ipv4Addr,
    /// Whether the operator lets it have new slots.
    pub schedulable: bool,
    /// What it has; `None` if it is not alive.
    pub capacity: Option<Capacity>,
    /// What the slots that are assigned to it may use.
    pub assigned: Resources,
}

/// Why a node cannot take a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unschedulable {
    NotAlive,
    /// Drained by the operator.
    NotSchedulable,
    /// It has less memory than one slot may use.
    TooSmall {
        /// Bytes it has.
        memory: u64,
    },
    /// It has fewer cores than one slot may use.
    TooFewCores {
        /// Cores it has.
        cores: f64,
    },
}

/// No node can take the function.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct NoNode {
    pub unschedulable: Vec<(Ipv4Addr, Unschedulable)>,
}

/// Nodes named in a message; more would not help who reads it.
const NAMED: usize = 8;

impl fmt::Display for NoNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unschedulable.is_empty() {
            return f.write_str("no node is provisioned");
        }
        f.write_str("no node can take the function: ")?;
        for (index, (ip, why)) in self.unschedulable.iter().take(NAMED).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match why {
                Unschedulable::NotAlive => write!(f, "{comma}{ip} is not alive")?,
                Unschedulable::NotSchedulable => write!(f, "{comma}{ip} is not schedulable")?,
                Unschedulable::TooSmall { memory } => {
                    write!(f, "{comma}{ip} has only {memory} bytes of memory")?
                }
                Unschedulable::TooFewCores { cores } => {
                    write!(f, "{comma}{ip} has only {cores} cores")?
                }
            }
        }
        match self.unschedulable.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

/// Chooses a node for each of `count` slots.
///
/// # Errors
/// When no node can take any.
pub fn place(
    candidates: &[Candidate],
    request: Resources,
    count: u32,
) -> Result<Vec<Ipv4Addr>, NoNode> {
    let mut unschedulable = Vec::new();
    let mut nodes = Vec::new();
    for candidate in candidates {
        match check(candidate, request) {
            Ok(capacity) => nodes.push(NodeLoad {
                ip: candidate.ip,
                capacity,
                assigned: candidate.assigned,
                placed: 0,
            }),
            Err(why) => unschedulable.push((candidate.ip, why)),
        }
    }
    let mut chosen = Vec::new();
    for _ in 0..count {
        let Some(best) = nodes.iter_mut().min_by(|a, b| a.compare(b, request)) else {
            return Err(NoNode { unschedulable });
        };
        best.placed += 1;
        best.assigned.cpu += request.cpu;
        best.assigned.memory = best.assigned.memory.saturating_add(request.memory);
        chosen.push(best.ip);
    }
    Ok(chosen)
}

fn check(candidate: &Candidate, request: Resources) -> Result<Capacity, Unschedulable> {
    match candidate.capacity {
        None => Err(Unschedulable::NotAlive),
        Some(_) if !candidate.schedulable => Err(Unschedulable::NotSchedulable),
        Some(capacity) if capacity.memory < request.memory => Err(Unschedulable::TooSmall {
            memory: capacity.memory,
        }),
        Some(capacity) if capacity.cores < request.cpu => Err(Unschedulable::TooFewCores {
            cores: capacity.cores,
        }),
        Some(capacity) => Ok(capacity),
    }
}

/// A node while slots are being placed.
struct NodeLoad {
    ip: Ipv4Addr,
    capacity: Capacity,
    assigned: Resources,
    /// Slots of this very placement.
    placed: u32,
}

impl NodeLoad {
    /// The better node is the lesser.
    fn compare(&self, other: &Self, request: Resources) -> Ordering {
        let (mine, theirs) = (
            self.free_share_with(request),
            other.free_share_with(request),
        );
        (mine < 0.0)
            .cmp(&(theirs < 0.0))
            .then(self.placed.cmp(&other.placed))
            .then(theirs.total_cmp(&mine))
            .then(self.ip.cmp(&other.ip))
    }

    /// The share of the scarcer resource that is left when one more slot is there; negative if
    /// overcommitted.
    fn free_share_with(&self, request: Resources) -> f64 {
        let cpu = 1.0 - (self.assigned.cpu + request.cpu) / self.capacity.cores.max(0.01);
        let memory = self.assigned.memory.saturating_add(request.memory) as f64;
        cpu.min(1.0 - memory / (self.capacity.memory.max(1) as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const SMALL: Resources = Resources {
        cpu: 1.0,
        memory: GIB,
    };

    fn node(last: u8, cores: f64, gib: u64, assigned: Resources) -> Candidate {
        Candidate {
            ip: ip(last),
            schedulable: true,
            capacity: Some(Capacity {
                cores,
                memory: gib * GIB,
            }),
            assigned,
        }
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn used(cpu: f64, gib: u64) -> Resources {
        Resources {
            cpu,
            memory: gib * GIB,
        }
    }

    #[test]
    fn the_table_of_placements() {
        let empty = Resources::default();
        let table: &[(&str, Vec<Candidate>, u32, Vec<u8>)] = &[
            ("the only node", vec![node(1, 8.0, 8, empty)], 1, vec![1]),
            (
                "equal nodes: the lowest address",
                vec![node(2, 8.0, 8, empty), node(1, 8.0, 8, empty)],
                1,
                vec![1],
            ),
            (
                "less memory assigned",
                vec![node(1, 8.0, 8, used(0.0, 4)), node(2, 8.0, 8, used(0.0, 1))],
                1,
                vec![2],
            ),
            (
                "less cpu assigned",
                vec![node(1, 8.0, 8, used(4.0, 0)), node(2, 8.0, 8, used(1.0, 0))],
                1,
                vec![2],
            ),
            (
                "the scarcer counts",
                vec![node(1, 8.0, 8, used(6.0, 0)), node(2, 8.0, 8, used(2.0, 4))],
                1,
                vec![2],
            ),
            (
                "a larger node has more room",
                vec![node(1, 4.0, 4, empty), node(2, 16.0, 16, empty)],
                1,
                vec![2],
            ),
            (
                "slots are spread first",
                vec![node(1, 4.0, 4, empty), node(2, 64.0, 64, empty)],
                2,
                vec![2, 1],
            ),
            (
                "and then go where room is",
                vec![node(1, 8.0, 8, empty), node(2, 64.0, 64, empty)],
                3,
                vec![2, 1, 2],
            ),
            (
                "a full node gets none while another has room",
                vec![node(1, 1.0, 8, used(1.0, 0)), node(2, 8.0, 8, empty)],
                3,
                vec![2, 2, 2],
            ),
            (
                "all full: overcommitted, spread",
                vec![node(1, 1.0, 8, used(1.0, 0)), node(2, 1.0, 8, used(1.0, 0))],
                2,
                vec![1, 2],
            ),
            ("no slots", vec![node(1, 1.0, 1, empty)], 0, vec![]),
        ];
        for (what, nodes, count, expected) in table {
            let expected: Vec<Ipv4Addr> = expected.iter().map(|last| ip(*last)).collect();
            assert_eq!(
                place(nodes, SMALL, *count).as_ref(),
                Ok(&expected),
                "{what}"
            );
        }
    }

    #[test]
    fn without_a_suitable_node_the_reason_is_given_for_each() {
        let dead = Candidate {
            capacity: None,
            ..node(1, 8.0, 8, Resources::default())
        };
        let drained = Candidate {
            schedulable: false,
            ..node(2, 8.0, 8, Resources::default())
        };
        let tiny = Candidate {
            capacity: Some(Capacity {
                cores: 1.0,
                memory: 42,
            }),
            ..node(3, 8.0, 8, Resources::default())
        };
        let slow = node(4, 0.5, 8, Resources::default());
        let refused = place(&[dead, drained, tiny, slow], SMALL, 1).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no node can take the function: 10.0.0.1 is not alive, 10.0.0.2 is not schedulable, 10.0.0.3 has only 42 bytes of memory, 10.0.0.4 has only 0.5 cores"
        );
        assert_eq!(
            place(&[], SMALL, 1).unwrap_err().to_string(),
            "no node is provisioned"
        );
    }
}
