//! Task supervision: panics, errors, drain.

use std::time::Duration;

use bismuth_daemon::{Policy, Shutdown, Tasks};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_panic_in_a_task_the_process_needs_ends_the_process_and_names_it() {
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(&shutdown);
    tasks.spawn("watcher", Policy::EndsProcess, async {
        if true {
            panic!("no table");
        }
    });
    shutdown.cancelled().await;
    let failure = shutdown.outcome().expect_err("nobody asked for it");
    assert_eq!(failure.to_string(), "task watcher panicked: no table");
    tasks.drain(LONG).await.expect("nothing runs");
}

#[tokio::test]
async fn an_error_of_a_needed_task_is_told_with_its_causes() {
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(&shutdown);
    tasks.spawn("listener", Policy::EndsProcess, async {
        Err::<(), _>(anyhow::anyhow!("no more descriptors").context("accept"))
    });
    shutdown.cancelled().await;
    let failure = shutdown.outcome().expect_err("nobody asked for it");
    assert_eq!(
        failure.to_string(),
        "task listener failed: accept: no more descriptors"
    );
}

#[tokio::test]
async fn a_needed_task_that_just_ends_is_a_failure_unless_the_process_is_ending() {
    let shutdown = Shutdown::new();
    Tasks::new(&shutdown).spawn("loop", Policy::EndsProcess, async {});
    shutdown.cancelled().await;
    let failure = shutdown.outcome().expect_err("nobody asked for it");
    assert_eq!(
        failure.to_string(),
        "task loop ended though nobody asked it to"
    );

    let shutdown = Shutdown::new();
    let tasks = Tasks::new(&shutdown);
    let token = shutdown.clone();
    tasks.spawn("loop", Policy::EndsProcess, async move {
        token.cancelled().await;
    });
    tasks.drain(LONG).await.expect("it listens to the shutdown");
    assert_eq!(shutdown.outcome(), Ok(()));
}

#[tokio::test]
async fn a_best_effort_task_may_panic_and_nothing_else_happens() {
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(&shutdown);
    let handle = tasks.spawn("cleaner", Policy::BestEffort, async {
        if true {
            panic!("dust");
        }
    });
    while !handle.is_finished() {
        tokio::task::yield_now().await;
    }
    assert!(!shutdown.is_triggered());
    assert_eq!(tasks.names(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_drain_past_its_deadline_names_and_aborts_what_still_ran() {
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(&shutdown);
    let never_ends = || std::future::pending::<()>();
    let handles = [
        tasks.spawn("upload", Policy::BestEffort, never_ends()),
        tasks.spawn("accept", Policy::EndsProcess, never_ends()),
    ];
    let token = shutdown.clone();
    tasks.spawn("polite", Policy::EndsProcess, async move {
        token.cancelled().await;
    });
    let error = tasks.drain(Duration::from_secs(5)).await;
    let error = error.expect_err("two never end");
    assert_eq!(error.names, ["accept", "upload"]);
    for handle in handles {
        while !handle.is_finished() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(tasks.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_task_on_a_local_set_is_supervised_too() {
    let local = tokio::task::LocalSet::new();
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(&shutdown);
    let not_send = std::rc::Rc::new(3);
    let work = async {
        tasks.spawn_local("local", Policy::EndsProcess, async move {
            assert_eq!(*not_send, 4, "arithmetic");
        });
        shutdown.cancelled().await;
    };
    local.run_until(work).await;
    let failure = shutdown.outcome().expect_err("it panicked");
    assert!(failure.to_string().starts_with("task local panicked: "));
}
