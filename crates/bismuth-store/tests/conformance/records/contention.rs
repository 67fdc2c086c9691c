//! Concurrent use of conditions: locks, counters, compare-and-swap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bismuth_store::records::{Condition, EngineError, Records, Refused};

use crate::test_engines::{
    TestEngines, WriteExt, add, delete, get, join, made, make, one_of, put, value,
};

const TASKS: usize = 24;

/// Runs `work` in many tasks over both instances.
async fn everywhere<F>(engines: &dyn TestEngines, work: impl Fn(Arc<dyn Records>, usize) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let instances = [engines.records(), engines.others()];
    let tasks = (0..TASKS).map(|n| tokio::spawn(work(Arc::clone(&instances[n % 2]), n)));
    join(tasks).await;
}

fn is_condition(error: &EngineError) -> bool {
    matches!(error.refusal(), Some(Refused::Condition { .. }))
}

pub async fn a_lock_is_held_by_one_at_a_time(engines: &mut dyn TestEngines) {
    let held = Arc::new(AtomicBool::new(false));
    let turns = Arc::new(AtomicUsize::new(0));
    everywhere(engines, |records, n| {
        let (held, turns) = (Arc::clone(&held), Arc::clone(&turns));
        async move {
            let take = || put("lock", n.to_string()).when(Condition::Absent);
            let mine = loop {
                match make(&records, take()).await {
                    Ok(written) => break written.revision,
                    Err(error) => assert!(is_condition(&error), "{error}"),
                }
            };
            assert!(!held.swap(true, Ordering::SeqCst), "two hold the lock");
            assert_eq!(value(&records, "lock").await.unwrap(), n.to_string());
            turns.fetch_add(1, Ordering::SeqCst);
            held.store(false, Ordering::SeqCst);
            made(&records, delete("lock").when(one_of(mine))).await;
        }
    })
    .await;
    assert_eq!(turns.load(Ordering::SeqCst), TASKS);
    assert_eq!(get(&engines.records(), "lock").await, None);
}

pub async fn a_counter_counts_every_addition(engines: &mut dyn TestEngines) {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    everywhere(engines, |records, _| {
        let seen = Arc::clone(&seen);
        async move {
            for _ in 0..10 {
                let sum = made(&records, add("n", 1)).await.sum.unwrap();
                seen.lock().unwrap().push(sum);
            }
        }
    })
    .await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    let all: Vec<i64> = (1..=TASKS as i64 * 10).collect();
    assert_eq!(seen, all);
    let sum = value(&engines.records(), "n").await.unwrap();
    assert_eq!(sum, (TASKS * 10).to_string());
}

pub async fn compare_and_swap_loses_no_update(engines: &mut dyn TestEngines) {
    made(&engines.records(), put("list", "")).await;
    everywhere(engines, |records, n| async move {
        loop {
            let old = get(&records, "list").await.unwrap();
            let new = format!("{}{n},", std::str::from_utf8(&old.value).unwrap());
            match make(&records, put("list", new).when(one_of(old.meta.revision))).await {
                Ok(_) => return,
                Err(error) => assert!(is_condition(&error), "{error}"),
            }
        }
    })
    .await;
    let list = value(&engines.records(), "list").await.unwrap();
    let names = list.trim_end_matches(',').split(',');
    let mut names: Vec<usize> = names.map(|name| name.parse().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, (0..TASKS).collect::<Vec<_>>());
}
