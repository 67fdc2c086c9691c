//! What to do about the difference between what should be and what is. Pure.
//!
//! ```text
//!  desired: ZooKeeper's assignment (or the last one on disk)  ─┐
//!                                                              ├─► plan ─► [Remove…, Adopt…, Create…]
//!  observed: drivers, containerd's list, the state directory  ─┘
//! ```
//!
//! Level-triggered: the same function serves start-up, timer and event, and is not told what
//! changed. Removal comes before addition, so that what goes frees what comes.

use std::collections::{BTreeMap, BTreeSet};

use bismuth_model::ContainerId;

/// Everything that is known to be on this node, whoever knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Containers that a driver task of this process owns.
    pub driven: BTreeSet<ContainerId>,
    /// Containers that containerd knows.
    pub in_containerd: BTreeSet<ContainerId>,
    /// Containers that have a directory in the state directory.
    pub on_disk: BTreeSet<ContainerId>,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Drain and take down what is driven but no longer assigned.
    Retire(ContainerId),
    /// Take down what nobody drives and nobody assigned: left over from an earlier process.
    Sweep(ContainerId),
    /// Go on with what an earlier process started.
    Adopt(ContainerId),
    /// Serve a slot that is new to this node.
    Create(ContainerId),
}

/// The steps from `observed` to `desired`.
pub fn plan<T>(desired: &BTreeMap<ContainerId, T>, observed: &Observed) -> Vec<Step> {
    let known: BTreeSet<_> = observed
        .in_containerd
        .union(&observed.on_disk)
        .copied()
        .collect();
    let retire = observed
        .driven
        .iter()
        .filter(|id| !desired.contains_key(id))
        .map(|id| Step::Retire(*id));
    let sweep = known
        .iter()
        .filter(|id| !desired.contains_key(id) && !observed.driven.contains(id))
        .map(|id| Step::Sweep(*id));
    let serve = desired
        .keys()
        .filter(|id| !observed.driven.contains(id))
        .map(|id| {
            if known.contains(id) {
                Step::Adopt(*id)
            } else {
                Step::Create(*id)
            }
        });
    retire.chain(sweep).chain(serve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> ContainerId {
        ContainerId::from_bytes([n; 16])
    }

    fn ids(numbers: &[u8]) -> BTreeSet<ContainerId> {
        numbers.iter().copied().map(id).collect()
    }

    fn desired(numbers: &[u8]) -> BTreeMap<ContainerId, ()> {
        numbers.iter().map(|n| (id(*n), ())).collect()
    }

    #[test]
    fn a_fresh_node_creates_what_it_is_assigned() {
        let steps = plan(&desired(&[1, 2]), &Observed::default());
        assert_eq!(steps, [Step::Create(id(1)), Step::Create(id(2))]);
    }

    #[test]
    fn after_a_crash_the_assigned_are_adopted_and_the_others_swept() {
        let observed = Observed {
            driven: ids(&[]),
            in_containerd: ids(&[1, 3]),
            on_disk: ids(&[1, 2, 4]),
        };
        let steps = plan(&desired(&[1, 2, 5]), &observed);
        assert_eq!(
            steps,
            [
                Step::Sweep(id(3)),
                Step::Sweep(id(4)),
                Step::Adopt(id(1)),
                Step::Adopt(id(2)),
                Step::Create(id(5)),
            ]
        );
    }

    #[test]
    fn what_runs_as_it_should_is_left_alone() {
        let observed = Observed {
            driven: ids(&[1]),
            in_containerd: ids(&[1]),
            on_disk: ids(&[1]),
        };
        assert_eq!(plan(&desired(&[1]), &observed), []);
        assert_eq!(plan(&desired(&[]), &observed), [Step::Retire(id(1))]);
    }

    proptest! {
        #[test]
        fn each_container_gets_at_most_one_step_and_removal_comes_first(
            want in prop::collection::btree_set(0u8..12, 0..8),
            driven in prop::collection::btree_set(0u8..12, 0..8),
            containerd in prop::collection::btree_set(0u8..12, 0..8),
            disk in prop::collection::btree_set(0u8..12, 0..8),
        ) {
            let want: BTreeMap<_, _> = want.into_iter().map(|n| (id(n), ())).collect();
            let set = |s: BTreeSet<u8>| s.into_iter().map(id).collect::<BTreeSet<_>>();
            let observed = Observed { driven: set(driven), in_containerd: set(containerd), on_disk: set(disk) };
            let steps = plan(&want, &observed);
            let mut seen = BTreeSet::new();
            let mut adding = false;
            for step in &steps {
                let (id, adds) = match step {
                    Step::Retire(id) | Step::Sweep(id) => (id, false),
                    Step::Adopt(id) | Step::Create(id) => (id, true),
                };
                prop_assert!(seen.insert(*id));
                prop_assert!(adds || !adding);
                adding = adds;
            }
            // Carried out, nothing is left to do.
            let driven_after: BTreeSet<_> = want.keys().copied().collect();
            let after = Observed { driven: driven_after.clone(), in_containerd: driven_after.clone(), on_disk: driven_after };
            prop_assert_eq!(plan(&want, &after), vec![]);
        }
    }
}
