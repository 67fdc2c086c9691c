//! The routing that frontends watch.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bismuth_coord::Version;
use bismuth_model::{Affinity, FunctionId};
use bismuth_registry::RoutingSnapshot;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fixture::{Fixture, NODES, definition, hostname, shows, slot, spawned};

type Shown = watch::Receiver<Arc<RoutingSnapshot>>;

async fn complete(f: &Fixture) -> Shown {
    let mut routing = spawned(
        f.registry
            .watch_routing(RoutingSnapshot::default(), pending()),
    );
    shows(&mut routing, "everything", |snapshot| snapshot.complete).await;
    routing
}

/// Functions with a backend and a route each.
async fn many(f: &Fixture, count: usize) -> Vec<FunctionId> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(
            f.function(
                &definition(&[&format!("f{n}.example.com")]),
                &[slot(NODES[n % 3])],
            )
            .await,
        );
    }
    ids
}

#[tokio::test]
async fn the_first_list_is_complete() {
    let f = Fixture::new().await;
    let mut made = definition(&["a.b"]);
    made.affinity = Some(Affinity::Cookie("sid".into()));
    made.concurrency = 7;
    made.timeout_ms = 1500;
    let slots = [slot(NODES[0]), slot(NODES[1])];
    let id = f.function(&made, &slots).await;
    let snapshot = complete(&f).await.borrow().clone();
    let function = &snapshot.functions[&id];
    assert_eq!(function.backends[..], slots);
    assert_eq!(
        (function.concurrency, function.timeout),
        (7, Duration::from_millis(1500))
    );
    assert_eq!(function.affinity, made.affinity);
    assert_eq!(snapshot.routes[&hostname("a.b")], id);
}

#[tokio::test]
async fn every_change_is_seen() {
    let f = Fixture::new().await;
    let writer = f.other();
    let mut routing = complete(&f).await;
    let old = slot(NODES[0]);
    let id = writer.function(&definition(&["a.b"]), &[old]).await;
    shows(&mut routing, "the function and its route", |s| {
        s.functions
            .get(&id)
            .is_some_and(|x| x.backends[..] == [old])
            && s.routes.contains_key(&hostname("a.b"))
    })
    .await;
    let added = writer.registry.add_backend(id, NODES[1]).await.unwrap();
    shows(&mut routing, "the backend", |s| {
        s.functions[&id].backends[..] == [old, added]
    })
    .await;
    let mut next = definition(&["c.d"]);
    next.concurrency = 3;
    let new = slot(NODES[2]);
    writer
        .registry
        .replace_definition(id, &next, Version(0), &[new])
        .await
        .unwrap();
    writer.registry.switch_backends(id, &[new]).await.unwrap();
    shows(&mut routing, "the new definition and route", |s| {
        s.functions[&id].concurrency == 3
            && s.functions[&id].backends[..] == [new]
            && s.routes.contains_key(&hostname("c.d"))
            && !s.routes.contains_key(&hostname("a.b"))
    })
    .await;
    writer.registry.delete_function(id).await.unwrap();
    shows(&mut routing, "nothing", |s| {
        s.functions.is_empty() && s.routes.is_empty()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_snapshot_stays_while_disconnected_and_is_updated_after() {
    let f = Fixture::new().await;
    let writer = f.other();
    let id = f.function(&definition(&[]), &[slot(NODES[0])]).await;
    let mut routing = complete(&f).await;
    for expire in [false, true] {
        f.tree.disconnect();
        if expire {
            f.tree.expire();
        }
        let added = writer.registry.add_backend(id, NODES[1]).await.unwrap();
        tokio::time::advance(Duration::from_secs(300)).await;
        let stale = routing.borrow().clone();
        assert!(stale.complete && !stale.functions[&id].backends.contains(&added));
        f.tree.reconnect();
        shows(&mut routing, "the backend", |s| {
            s.functions[&id].backends.contains(&added)
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn started_without_a_connection_it_is_incomplete_until_there_is_one() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&[]), &[slot(NODES[0])]).await;
    f.tree.disconnect();
    let mut routing = spawned(
        f.registry
            .watch_routing(RoutingSnapshot::default(), pending()),
    );
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(**routing.borrow(), RoutingSnapshot::default());
    f.tree.reconnect();
    shows(&mut routing, "everything", |s| {
        s.complete && s.functions.contains_key(&id)
    })
    .await;
}

#[tokio::test]
async fn an_undecodable_record_keeps_its_last_good_value_and_does_not_affect_others() {
    let f = Fixture::new().await;
    let ids = many(&f, 3).await;
    let mut routing = complete(&f).await;
    let before = routing.borrow().clone();
    f.put(&f.registry.layout().serving(ids[0]), b"\x07").await;
    f.put(&f.registry.layout().function(ids[0]), b"\x07").await;
    f.put(&f.registry.layout().backends(ids[1]), b"cut").await;
    f.put(&f.registry.layout().route(&hostname("f2.example.com")), b"")
        .await;
    let after = shows(&mut routing, "four undecodable", |s| {
        s.stale.undecodable == 4
    })
    .await;
    assert_eq!(
        (&after.functions, &after.routes),
        (&before.functions, &before.routes)
    );

    // A frontend that starts now has no last good value: it skips what it cannot read.
    let fresh = complete(&f.other()).await.borrow().clone();
    assert_eq!(fresh.stale.undecodable, 4);
    assert!(!fresh.functions.contains_key(&ids[0]) && fresh.functions[&ids[1]].backends.is_empty());
    assert_eq!(fresh.functions[&ids[2]], before.functions[&ids[2]]);

    f.registry.delete_function(ids[0]).await.unwrap();
    shows(&mut routing, "two undecodable", |s| {
        s.stale.undecodable == 2 && !s.functions.contains_key(&ids[0])
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn deleting_two_of_three_functions_is_not_held_back() {
    let f = Fixture::new().await;
    let ids = many(&f, 3).await;
    let mut routing = complete(&f).await;
    let begun = Instant::now();
    for id in &ids[1..] {
        f.registry.delete_function(*id).await.unwrap();
    }
    let shown = shows(&mut routing, "one function", |s| s.functions.len() == 1).await;
    assert_eq!(shown.stale.held_back, 0);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_mass_deletion_is_held_back_until_a_later_list_confirms_it() {
    let f = Fixture::new().await;
    let writer = f.other();
    let ids = many(&f, 40).await;
    let mut routing = complete(&f).await;
    let begun = Instant::now();
    // As one change: the frontend was away meanwhile.
    f.tree.disconnect();
    for id in &ids[..30] {
        writer.registry.delete_function(*id).await.unwrap();
    }
    let added = writer.function(&definition(&[]), &[slot(NODES[0])]).await;
    f.tree.reconnect();
    let held = shows(&mut routing, "the held-back count and what is new", |s| {
        s.stale.held_back == 60 && s.functions.contains_key(&added)
    })
    .await;
    assert_eq!(
        (held.functions.len(), held.routes.len()),
        (41, 40),
        "what went is still shown"
    );
    let confirmed = shows(&mut routing, "what is left", |s| s.stale.held_back == 0).await;
    assert_eq!(
        (confirmed.functions.len(), confirmed.routes.len()),
        (11, 10)
    );
    let waited = begun.elapsed();
    assert!(
        waited >= Duration::from_secs(10) && waited < Duration::from_secs(30),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_reappears_while_held_back_stays_published() {
    let f = Fixture::new().await;
    let writer = f.other();
    let ids = many(&f, 20).await;
    let mut routing = complete(&f).await;
    let before = routing.borrow().clone();
    let lists: Vec<_> = ids
        .iter()
        .map(|id| {
            (
                f.registry.layout().backends(*id),
                before.functions[id].backends.clone(),
            )
        })
        .collect();
    f.tree.disconnect();
    for (path, _) in &lists {
        writer.put(path, b"").await;
    }
    f.tree.reconnect();
    let held = shows(&mut routing, "the held-back count", |s| {
        s.stale.held_back == 20
    })
    .await;
    assert_eq!(held.functions, before.functions);
    for (path, backends) in &lists {
        writer
            .put(path, &bismuth_model::Backend::encode_list(backends))
            .await;
    }
    let after = shows(&mut routing, "that nothing is held back", |s| {
        s.stale.held_back == 0
    })
    .await;
    assert_eq!(after.functions, before.functions);
}

#[tokio::test(start_paused = true)]
async fn a_vanished_environment_keeps_the_last_snapshot() {
    let f = Fixture::new().await;
    let writer = f.other();
    f.function(&definition(&["a.b"]), &[slot(NODES[0])]).await;
    let routing = complete(&f).await;
    let before = routing.borrow().clone();
    f.tree.disconnect();
    let path = writer.registry.layout().route(&hostname("a.b"));
    writer.remove(&path).await;
    writer.remove(&writer.registry.layout().routes()).await;
    f.tree.reconnect();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(**routing.borrow(), *before);
}

#[tokio::test(start_paused = true)]
async fn a_change_without_an_event_is_found_by_the_next_list() {
    let f = Fixture::new().await;
    let mut routing = complete(&f).await;
    // Nothing of ours: no hint is taken, and nothing is shown of it.
    f.put("/default/function/not-an-id", b"?").await;
    f.put("/default/route/Upper.Case", b"?").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!routing.has_changed().unwrap());
    let id = f.function(&definition(&[]), &[]).await;
    shows(&mut routing, "the function", |s| {
        s.functions.contains_key(&id)
    })
    .await;
}

#[tokio::test]
async fn the_task_ends_with_the_shutdown_and_the_last_snapshot_stays() {
    let f = Fixture::new().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (mut routing, following) = f
        .registry
        .watch_routing(RoutingSnapshot::default(), async { drop(stopped.await) });
    let task = tokio::spawn(following);
    shows(&mut routing, "everything", |s| s.complete).await;
    stop.send(()).unwrap();
    tokio::time::timeout(crate::fixture::BOUND, task)
        .await
        .unwrap()
        .unwrap();
    assert!(routing.borrow().complete);

    let (routing, following) = f
        .registry
        .watch_routing(RoutingSnapshot::default(), pending());
    drop(routing);
    tokio::time::timeout(crate::fixture::BOUND, following)
        .await
        .expect("nobody looks any more");
}
