//! Concurrent executions, their ends, and that nothing is left of them.

use bismuth_init::{Exit, FailureKind};

use crate::harness::{Execution, Init, eventually};

#[test]
fn two_hundred_executions_run_at_once_and_end_in_any_order() {
    let init = Init::plain();
    let mut running: Vec<Execution> = (0..200).map(|_| init.exec(&["busybox", "cat"])).collect();
    for (number, cat) in running.iter_mut().enumerate() {
        cat.spawned();
        cat.write_stdin(&format!("{number}\n"));
    }
    assert_eq!(init.children().len(), 200);
    for (number, cat) in running.iter_mut().enumerate().rev() {
        assert_eq!(cat.read_line(), number.to_string());
        cat.stdin = None;
        assert_eq!(cat.exited(), Exit::Code(0));
    }
    init.wait_childless();
}

#[test]
fn a_thousand_executions_leave_no_zombie_and_no_descriptor() {
    let init = Init::plain();
    init.assert_alive();
    init.wait_idle();
    for _ in 0..50 {
        let mut batch: Vec<_> = (0..20).map(|_| init.exec(&["busybox", "true"])).collect();
        for execution in &mut batch {
            execution.spawned();
            assert_eq!(execution.exited(), Exit::Code(0));
        }
    }
    // Failures must not leak either.
    for _ in 0..20 {
        init.exec(&["nope"]).failed();
    }
    assert_eq!(init.children(), []);
    init.wait_idle();
}

#[test]
fn closing_the_connection_kills_the_program_and_its_grandchildren() {
    for init in [Init::plain(), Init::as_pid_1()] {
        let mut program = init.shell(
            "(busybox sleep 1000; :) & (busybox sh -c 'busybox sleep 1000; :') & echo up; wait",
        );
        program.spawned();
        assert_eq!(program.read_line(), "up");
        // Until the end of the output: the last of them is gone.
        program.abandon();
        init.wait_childless();
        init.assert_alive();
    }
}

#[test]
fn what_a_program_leaves_running_is_killed_when_it_ends() {
    for init in [Init::plain(), Init::as_pid_1()] {
        let mut program = init.shell("busybox sleep 1000 & echo started");
        program.spawned();
        // Both lines: the output ends although `sleep` had it open.
        assert_eq!(program.rest(), "started\n");
        assert_eq!(program.exited(), Exit::Code(0));
        init.wait_childless();
    }
}

#[test]
fn children_in_process_groups_of_their_own_are_found_by_their_session() {
    for init in [Init::plain(), Init::as_pid_1()] {
        // Another execution, so that this is not the end of all.
        let mut other = init.exec(&["busybox", "cat"]);
        other.spawned();
        let mut program = init.shell(
            "set -m; busybox sh -c 'busybox sleep 1000 & busybox sleep 1000; :' & echo up; wait",
        );
        program.spawned();
        assert_eq!(program.read_line(), "up");
        program.abandon();
        // Only the other one.
        init.wait_children(1);
        other.write_stdin("still here\n");
        assert_eq!(other.read_line(), "still here");
    }
}

/// It is the daemon itself that says it is up; by then it has left the session.
const DAEMON: &str = "busybox setsid busybox sh -c 'echo up; exec busybox sleep 1000' & ";

#[test]
fn a_daemon_is_killed_with_its_execution_while_others_run() {
    for init in [Init::plain(), Init::as_pid_1()] {
        let mut others = [
            init.exec(&["busybox", "cat"]),
            // One that has a daemon of its own, which is not the other's.
            init.shell(
                "pid=$(busybox setsid busybox sh -c 'echo $$; exec busybox sleep 1000 >&-' &)
                 echo up; read line; busybox kill -0 $pid",
            ),
        ];
        for other in &mut others {
            other.spawned();
        }
        assert_eq!(others[1].read_line(), "up");
        for ends_by_itself in [true, false] {
            let last = if ends_by_itself {
                "read line"
            } else {
                "busybox sleep 1000"
            };
            let mut program = init.shell(&format!("exec 2>&-; ({DAEMON}); {last}"));
            program.spawned();
            assert_eq!(program.read_line(), "up");
            if ends_by_itself {
                program.write_stdin("\n");
                assert_eq!(program.exited(), Exit::Code(0));
            }
            // Until the end of the output: the daemon is gone, and the others are not.
            program.abandon();
            init.wait_children(2);
        }
        let [mut cat, mut with_daemon] = others;
        with_daemon.write_stdin("\n");
        assert_eq!(with_daemon.exited(), Exit::Code(0), "its daemon was there");
        cat.stdin = None;
        assert_eq!(cat.exited(), Exit::Code(0));
        init.wait_childless();
        init.assert_alive();
    }
}

#[test]
fn an_orphan_is_reaped() {
    let init = Init::plain();
    let mut program = init.shell("(busybox true &) ; read line");
    program.spawned();
    init.wait_children(1);
    program.write_stdin("\n");
    assert_eq!(program.exited(), Exit::Code(0));
}

#[test]
fn when_descriptors_run_out_a_request_fails_and_later_ones_work() {
    let init = Init::limited("ulimit -n 20");
    let mut running = Vec::new();
    let refusal = loop {
        let mut cat = init.exec(&["busybox", "cat"]);
        cat.reply();
        match cat.reply() {
            Some(bismuth_init::Reply::Spawned { .. }) => running.push(cat),
            other => break other,
        }
        assert!(running.len() < 20, "there are only twenty descriptors");
    };
    let Some(bismuth_init::Reply::SpawnFailed { kind, errno, what }) = refusal else {
        panic!("not refused but {refusal:?}");
    };
    assert_eq!((kind, errno), (FailureKind::Exhausted, 24), "{what}");
    assert!(running.len() > 5, "only {} fitted", running.len());
    // The listener itself is full when every descriptor is a connection.
    let idle: Vec<_> = (0..12).map(|_| init.connect()).collect();
    let (kind, ..) = init.exec(&["busybox", "true"]).failed();
    assert_eq!(kind, FailureKind::Exhausted);
    drop((running, idle));
    init.wait_childless();
    eventually("room again", || {
        let mut execution = init.exec(&["busybox", "true"]);
        execution.reply();
        matches!(execution.reply(), Some(bismuth_init::Reply::Spawned { .. })).then_some(())
    });
}

#[test]
fn when_processes_run_out_a_request_fails() {
    let init = Init::as_other_user("ulimit -u 1");
    let (kind, errno, what) = init.exec(&["busybox", "true"]).failed();
    assert_eq!((kind, errno), (FailureKind::Exhausted, 11));
    assert!(what.starts_with("start a process: "), "{what}");
    let (kind, ..) = init.exec(&["busybox", "true"]).failed();
    assert_eq!(kind, FailureKind::Exhausted, "it still answers");
}
