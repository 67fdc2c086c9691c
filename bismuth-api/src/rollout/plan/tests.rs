//! Tables of plans.

use std::net::Ipv4Addr;

use bismuth_model::{ContainerStatus, FunctionId};

use super::*;
use ContainerState::{Assigned, Failed, Paused, Pulling, Running, Starting, Stopped};

const UPDATED: u64 = 1_000_000;
const DEADLINE: u64 = UPDATED + 15 * 60 * 1000 + 30_000;

fn slot(number: u8) -> Backend {
    Backend {
        ip: Ipv4Addr::LOCALHOST,
        container_id: ContainerId::from_bytes([number; 16]),
    }
}

fn observed(routed: &[u8], slots: &[(u8, u64, ContainerState)]) -> Observed {
    let record = |revision, state| ContainerRecord {
        function_id: FunctionId::from_bytes([0; 16]),
        revision: Revision(revision),
        status: ContainerStatus {
            state,
            ..ContainerStatus::assigned(UPDATED)
        },
    };
    Observed {
        revision: Revision(2),
        fate: RevisionFate::Proven,
        updated_ms: UPDATED,
        startup_timeout_ms: 30_000,
        routed: routed.iter().map(|number| slot(*number)).collect(),
        slots: slots
            .iter()
            .map(|(number, revision, state)| (slot(*number), record(*revision, *state)))
            .collect(),
    }
}

fn switch(to: &[u8]) -> Step {
    Step::Switch(to.iter().map(|number| slot(*number)).collect())
}

#[test]
fn the_table_of_plans() {
    let proof = || Plan {
        steps: vec![],
        waits: vec![Wait::Proof { until_ms: DEADLINE }],
    };
    let steps = |steps: Vec<Step>| Plan {
        steps,
        waits: vec![],
    };
    let nothing = Plan::default;
    let release = |number| Step::Release(slot(number));
    type Row = (&'static str, Vec<u8>, Vec<(u8, u64, ContainerState)>, Plan);
    let table: Vec<Row> = vec![
        ("never deployed", vec![], vec![], nothing()),
        (
            "only the newest, routed",
            vec![1],
            vec![(1, 2, Starting)],
            nothing(),
        ),
        (
            "the newest has no slots yet",
            vec![1],
            vec![(1, 1, Running)],
            nothing(),
        ),
        (
            "assigned",
            vec![1],
            vec![(2, 2, Assigned), (1, 1, Running)],
            proof(),
        ),
        (
            "pulling",
            vec![1],
            vec![(2, 2, Pulling), (1, 1, Running)],
            proof(),
        ),
        (
            "starting",
            vec![1],
            vec![(2, 2, Starting), (1, 1, Running)],
            proof(),
        ),
        (
            "failed: the old goes on",
            vec![1],
            vec![(2, 2, Failed), (1, 1, Running)],
            proof(),
        ),
        (
            "failed, and the old is not well either",
            vec![1],
            vec![(2, 2, Failed), (1, 1, Failed)],
            proof(),
        ),
        (
            "running",
            vec![1],
            vec![(2, 2, Running), (1, 1, Running)],
            steps(vec![switch(&[2])]),
        ),
        (
            "ran and is idle",
            vec![1],
            vec![(2, 2, Paused), (3, 2, Stopped), (1, 1, Running)],
            steps(vec![switch(&[2, 3])]),
        ),
        (
            "one of two",
            vec![1],
            vec![(2, 2, Running), (3, 2, Starting), (1, 1, Running)],
            proof(),
        ),
        (
            "nothing is routed",
            vec![],
            vec![(2, 2, Assigned), (3, 2, Failed)],
            steps(vec![switch(&[2, 3])]),
        ),
        (
            "a backend of the newest was added by hand",
            vec![1, 2],
            vec![(2, 2, Running), (1, 1, Running)],
            steps(vec![switch(&[2])]),
        ),
        (
            "switched: the old are released",
            vec![2],
            vec![(2, 2, Running), (1, 1, Running), (9, 1, Failed)],
            steps(vec![release(1), release(9)]),
        ),
        (
            "superseded ones go, the newest are waited for",
            vec![1],
            vec![(3, 2, Pulling), (1, 0, Running), (2, 1, Running)],
            Plan {
                steps: vec![release(2)],
                waits: vec![Wait::Proof { until_ms: DEADLINE }],
            },
        ),
        (
            "removal before addition",
            vec![1],
            vec![(3, 2, Running), (1, 0, Running), (2, 1, Failed)],
            steps(vec![release(2), switch(&[3])]),
        ),
    ];
    for (what, routed, slots, expected) in table {
        assert_eq!(
            plan(&observed(&routed, &slots), UPDATED, |_| true),
            expected,
            "{what}"
        );
    }
}

#[test]
fn old_slots_stay_until_the_routing_has_settled() {
    let switched = observed(&[2], &[(2, 2, Running), (1, 1, Running), (9, 1, Running)]);
    let first = plan(&switched, UPDATED, |_| false);
    assert_eq!(
        first,
        Plan {
            steps: vec![],
            waits: vec![Wait::Settle]
        }
    );
    let second = plan(&switched, UPDATED, |container| {
        container == slot(1).container_id
    });
    assert_eq!(
        second,
        Plan {
            steps: vec![Step::Release(slot(1))],
            waits: vec![Wait::Settle]
        }
    );
}

#[test]
fn a_revision_that_does_not_run_in_time_is_given_up() {
    let stuck = observed(&[1], &[(2, 2, Pulling), (1, 1, Running)]);
    assert!(!plan(&stuck, DEADLINE - 1, |_| true).is_finished());
    assert!(plan(&stuck, DEADLINE, |_| true).is_finished());
}

#[test]
fn a_revision_that_was_given_up_does_not_surprise_later() {
    let late = observed(&[1], &[(2, 2, Running), (1, 1, Running)]);
    assert!(plan(&late, DEADLINE, |_| true).is_finished());
}

#[test]
fn the_fate_of_a_revision_is_recorded_when_it_runs_fails_or_is_given_up() {
    use RevisionFate::{Pending, Proven};
    let failed = |reason: &str| RevisionFate::Failed {
        reason: reason.to_owned(),
    };
    let late = "it did not run in time";
    let first = |fate, state| Observed {
        fate,
        ..observed(&[2], &[(2, 2, state)])
    };
    let successor = |fate, state| {
        let mut successor = Observed {
            fate,
            ..observed(&[1], &[(2, 2, state), (1, 1, Running)])
        };
        successor.slots[0].1.status.reason = Some("exited with 1".to_owned());
        successor
    };
    type Row = (&'static str, Observed, u64, Option<RevisionFate>, bool);
    let unrouted = Observed {
        fate: failed(""),
        ..observed(&[], &[(2, 2, Failed)])
    };
    let table: [Row; 9] = [
        (
            "a failed one is not switched to",
            unrouted,
            UPDATED,
            None,
            true,
        ),
        ("starts", first(Pending, Starting), UPDATED, None, true),
        (
            "runs",
            first(Pending, Running),
            UPDATED,
            Some(Proven),
            false,
        ),
        (
            "failed and runs",
            first(failed(""), Running),
            DEADLINE,
            Some(Proven),
            false,
        ),
        (
            "is late",
            first(Pending, Starting),
            DEADLINE,
            Some(failed(late)),
            false,
        ),
        (
            "was late",
            first(failed(late), Starting),
            DEADLINE,
            None,
            false,
        ),
        (
            "a successor fails",
            successor(Pending, Failed),
            UPDATED,
            Some(failed("exited with 1")),
            true,
        ),
        (
            "a successor failed",
            successor(failed(""), Failed),
            UPDATED,
            None,
            true,
        ),
        (
            "a successor is late",
            successor(Pending, Pulling),
            DEADLINE,
            Some(failed("exited with 1")),
            false,
        ),
    ];
    for (what, observed, now, fate, waits) in table {
        let plan = plan(&observed, now, |_| true);
        let steps: Vec<Step> = fate.map(Step::Record).into_iter().collect();
        assert_eq!(
            (plan.steps, !plan.waits.is_empty()),
            (steps, waits),
            "{what}"
        );
    }
}

#[test]
fn following_the_plan_ends_with_the_newest_alone() {
    let mut world = observed(
        &[1, 2],
        &[
            (3, 2, Running),
            (4, 2, Running),
            (1, 1, Running),
            (2, 1, Failed),
            (8, 0, Failed),
        ],
    );
    for _ in 0..4 {
        for step in plan(&world, UPDATED, |_| true).steps {
            match step {
                Step::Switch(to) => world.routed = to,
                Step::Record(fate) => world.fate = fate,
                Step::Release(gone) => {
                    assert!(!world.routed.contains(&gone), "{gone} was still routed");
                    world.slots.retain(|(slot, _)| *slot != gone);
                }
            }
        }
    }
    assert!(plan(&world, UPDATED, |_| true).is_finished());
    assert_eq!(world.routed, [slot(3), slot(4)]);
    assert_eq!(world.slots.len(), 2);
}
