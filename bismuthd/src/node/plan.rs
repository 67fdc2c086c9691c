//! Plans the steps from the observed containers to the assigned ones. Pure.
//!
//! ```text
//!  desired: ZooKeeper's assignment (or the last one on disk)  ─┐
//!                                                              ├─► plan ─► [Remove…, Adopt…, Create…]
//!  observed: drivers, containerd's list, the state directory  ─┘
//! ```
//!
//! What is assigned and has no definition to be had (another revision is current, or a record cannot be decoded) cannot be
//! started anew, but it is assigned: it is never taken down, and what an earlier process left of it is adopted.
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
    /// Containers that containerd knows; `None` if it does not say. Then nothing is swept.
    pub in_containerd: Option<BTreeSet<ContainerId>>,
    /// Containers that have a directory in the state directory; `None` if that cannot be listed. Then nothing is begun
    /// either: a container that was never seen could not be told from one that runs.
    pub on_disk: Option<BTreeSet<ContainerId>>,
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

/// The steps from `observed` to what is assigned: `desired` with its definition, `unresolved` without.
pub fn plan<T, U>(
    desired: &BTreeMap<ContainerId, T>,
    unresolved: &BTreeMap<ContainerId, U>,
    observed: &Observed,
) -> Vec<Step> {
    let is_assigned = |id: &ContainerId| desired.contains_key(id) || unresolved.contains_key(id);
    let retire = observed
        .driven
        .iter()
        .filter(|id| !is_assigned(id))
        .map(|id| Step::Retire(*id));
    let Some(on_disk) = &observed.on_disk else {
        return retire.collect();
    };
    let in_containerd = observed.in_containerd.iter().flatten();
    let known: BTreeSet<_> = on_disk.iter().chain(in_containerd).copied().collect();
    let undriven = known.difference(&observed.driven).copied();
    let (left, unassigned): (Vec<_>, Vec<_>) = undriven.partition(is_assigned);
    let sweep = unassigned.into_iter().map(Step::Sweep);
    let sweep = sweep.filter(|_| observed.in_containerd.is_some());
    let adopt = left.into_iter().map(Step::Adopt);
    let create = desired
        .keys()
        .filter(|id| !observed.driven.contains(id) && !known.contains(id))
        .map(|id| Step::Create(*id));
    retire.chain(sweep).chain(adopt).chain(create).collect()
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

    fn nothing() -> Observed {
        Observed {
            driven: ids(&[]),
            in_containerd: Some(ids(&[])),
            on_disk: Some(ids(&[])),
        }
    }

    const NONE: BTreeMap<ContainerId, ()> = BTreeMap::new();

    #[test]
    fn a_fresh_node_creates_what_it_is_assigned() {
        let steps = plan(&desired(&[1, 2]), &NONE, &nothing());
        assert_eq!(steps, [Step::Create(id(1)), Step::Create(id(2))]);
    }

    #[test]
    fn after_a_crash_assigned_containers_are_adopted_and_others_swept() {
        let observed = Observed {
            driven: ids(&[]),
            in_containerd: Some(ids(&[1, 3])),
            on_disk: Some(ids(&[1, 2, 4])),
        };
        let steps = plan(&desired(&[1, 2, 5]), &NONE, &observed);
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
    fn assigned_containers_that_run_need_no_step() {
        let observed = Observed {
            driven: ids(&[1]),
            in_containerd: Some(ids(&[1])),
            on_disk: Some(ids(&[1])),
        };
        assert_eq!(plan(&desired(&[1]), &NONE, &observed), []);
        assert_eq!(plan(&desired(&[]), &NONE, &observed), [Step::Retire(id(1))]);
    }

    #[test]
    fn a_container_assigned_without_a_definition_is_adopted_if_present_and_never_removed() {
        let observed = Observed {
            driven: ids(&[1]),
            in_containerd: Some(ids(&[1, 2])),
            on_disk: Some(ids(&[1, 2, 3])),
        };
        let steps = plan(&NONE, &desired(&[1, 2, 3, 4]), &observed);
        assert_eq!(steps, [Step::Adopt(id(2)), Step::Adopt(id(3))]);
    }

    #[test]
    fn nothing_is_swept_without_containerds_list_and_nothing_started_without_the_list_on_disk() {
        let mut observed = Observed {
            driven: ids(&[1]),
            in_containerd: None,
            on_disk: Some(ids(&[1, 2, 3])),
        };
        let steps = plan(&desired(&[2, 4]), &NONE, &observed);
        let begun = [Step::Adopt(id(2)), Step::Create(id(4))];
        assert_eq!(steps, [&[Step::Retire(id(1))], &begun[..]].concat());
        observed.on_disk = None;
        let steps = plan(&desired(&[2, 4]), &NONE, &observed);
        assert_eq!(steps, [Step::Retire(id(1))]);
    }

    proptest! {
        #[test]
        fn each_container_gets_at_most_one_step_and_removal_comes_first(
            want in prop::collection::btree_set(0u8..12, 0..8),
            undefined in prop::collection::btree_set(0u8..12, 0..3),
            driven in prop::collection::btree_set(0u8..12, 0..8),
            containerd in prop::collection::btree_set(0u8..12, 0..8),
            disk in prop::collection::btree_set(0u8..12, 0..8),
        ) {
            let map = |s: &BTreeSet<u8>| s.iter().map(|n| (id(*n), ())).collect::<BTreeMap<_, _>>();
            let (want, undefined) = (map(&want), map(&undefined.difference(&want).copied().collect()));
            let set = |s: BTreeSet<u8>| s.into_iter().map(id).collect::<BTreeSet<_>>();
            let observed = Observed { driven: set(driven), in_containerd: Some(set(containerd)), on_disk: Some(set(disk)) };
            let steps = plan(&want, &undefined, &observed);
            let mut seen = BTreeSet::new();
            let mut adding = false;
            for step in &steps {
                let (id, adds) = match step {
                    Step::Retire(id) | Step::Sweep(id) => {
                        prop_assert!(!want.contains_key(id) && !undefined.contains_key(id));
                        (id, false)
                    }
                    Step::Adopt(id) | Step::Create(id) => (id, true),
                };
                prop_assert!(seen.insert(*id));
                prop_assert!(adds || !adding);
                adding = adds;
            }
            // Carried out, nothing is left to do.
            let driven_after: BTreeSet<_> = want.keys().copied().collect();
            let after = Observed { driven: driven_after.clone(), in_containerd: Some(driven_after.clone()), on_disk: Some(driven_after) };
            prop_assert_eq!(plan(&want, &undefined, &after), vec![]);
        }
    }
}
