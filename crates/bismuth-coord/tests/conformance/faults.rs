//! Conformance: behaviour when the connection, the session or an answer is lost.

use std::time::{Duration, Instant};

use bismuth_coord::memory::LostAnswer;
use bismuth_coord::{CreateMode, Error, Event, SessionState, Version};

use crate::harness::{
    TreeHarness, at, check, create, created, ephemeral, next, node, persistent, session, until,
};

/// An API on top of the tree must say 503 within this.
const ANSWER_BOUND: Duration = Duration::from_secs(1);

pub async fn without_a_connection_every_call_fails_as_unavailable_within_a_second(
    harness: &dyn TreeHarness,
) {
    let tree = harness.tree();
    let path = node(harness, "a", "").await;
    harness.cut();
    session(&tree, SessionState::Disconnected).await;

    let started = Instant::now();
    let answers = tokio::join!(
        async { tree.get(&path).await.err() },
        async { tree.exists(&path).await.err() },
        async { tree.children(&path).await.err() },
        async {
            tree.get_many(std::slice::from_ref(&path))
                .await
                .pop()
                .and_then(Result::err)
        },
        async { tree.create(&path, b"", CreateMode::Persistent).await.err() },
        async { tree.set(&path, b"", None).await.err() },
        async { tree.delete(&path, None).await.err() },
        async { tree.commit(vec![check(&path, 0)]).await.err() },
        async { tree.watch(&path).await.err() },
    );
    let took = started.elapsed();
    let answers: [Option<Error>; 9] = answers.into();
    for answer in answers {
        assert!(
            answer.as_ref().is_some_and(Error::is_unavailable),
            "{answer:?}"
        );
    }
    assert!(took < ANSWER_BOUND, "it took {took:?}");

    harness.heal();
    session(&tree, SessionState::Connected).await;
    assert_eq!(
        tree.set(&path, b"", Some(Version(0))).await.unwrap(),
        Version(1)
    );
}

pub async fn a_watch_reports_lost_after_a_lost_connection_and_continues(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let mut watch = tree.watch(harness.base()).await.unwrap();
    harness.cut();
    session(&tree, SessionState::Disconnected).await;
    let missed = at(harness, "missed");
    persistent(&*harness.observer(), &missed).await;
    harness.heal();
    until(&mut watch, &Event::Lost).await;
    // The list made now has what was missed, and the watch has what comes after it.
    assert_eq!(tree.children(harness.base()).await.unwrap(), ["missed"]);
    let later = at(harness, "later");
    persistent(&*harness.observer(), &later).await;
    assert_eq!(next(&mut watch).await, created(&later));
}

pub async fn ephemeral_nodes_outlive_the_connection(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let path = at(harness, "ephemeral");
    ephemeral(&*tree, &path).await;
    harness.cut();
    session(&tree, SessionState::Disconnected).await;
    harness.heal();
    session(&tree, SessionState::Connected).await;
    assert!(tree.get(&path).await.unwrap().mine);
}

pub async fn after_an_expiry_a_new_session_is_opened_automatically(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let (path, kept) = (at(harness, "ephemeral"), node(harness, "kept", "").await);
    tree.create(&path, b"1", CreateMode::Ephemeral)
        .await
        .unwrap();
    let mut watch = tree.watch(harness.base()).await.unwrap();

    harness.expire().await;
    until(&mut watch, &Event::Lost).await;
    session(&tree, SessionState::Connected).await;
    assert_eq!(
        tree.exists(&path).await.unwrap(),
        None,
        "the ephemeral node went with its session"
    );
    assert_eq!(tree.exists(&kept).await.unwrap(), Some(Version(0)));

    tree.create(&path, b"2", CreateMode::Ephemeral)
        .await
        .unwrap();
    assert!(tree.get(&path).await.unwrap().mine);
    until(&mut watch, &created(&path)).await;
    // And once more: the session that followed is as good as the first.
    harness.expire().await;
    until(&mut watch, &Event::Lost).await;
    assert_eq!(tree.exists(&path).await.unwrap(), None);
}

pub async fn an_expiry_is_seen_by_other_sessions_as_the_deletion_of_its_ephemeral_nodes(
    harness: &dyn TreeHarness,
) {
    let path = at(harness, "ephemeral");
    ephemeral(&*harness.tree(), &path).await;
    let mut watch = harness.observer().watch(&path).await.unwrap();
    harness.expire().await;
    assert_eq!(next(&mut watch).await, Event::Deleted { path });
}

pub async fn a_change_whose_answer_is_lost_has_an_unknown_outcome(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let path = at(harness, "doubtful");
    harness.lose_next_answer(LostAnswer::AfterChange);
    let error = tree
        .create(&path, b"made", CreateMode::Persistent)
        .await
        .unwrap_err();
    assert!(
        error.is_unknown_outcome() && error.path() == Some(&path),
        "{error}"
    );
    session(&tree, SessionState::Connected).await;
    assert_eq!(
        &tree.get(&path).await.unwrap().data[..],
        b"made",
        "re-reading tells that it was made"
    );

    harness.lose_next_answer(LostAnswer::BeforeChange);
    let error = tree.set(&path, b"not made", None).await.unwrap_err();
    assert!(error.is_unknown_outcome(), "{error}");
    session(&tree, SessionState::Connected).await;
    assert_eq!(
        &tree.get(&path).await.unwrap().data[..],
        b"made",
        "re-reading tells that it was not"
    );
}

pub async fn a_transaction_whose_answer_is_lost_is_made_whole_or_not_at_all(
    harness: &dyn TreeHarness,
) {
    let tree = harness.tree();
    let paths = [at(harness, "a"), at(harness, "b")];
    let ops = || paths.iter().map(|path| create(path, ""));
    for (how, then) in [(LostAnswer::BeforeChange, 0), (LostAnswer::AfterChange, 2)] {
        harness.lose_next_answer(how);
        let error = tree.commit(ops().collect()).await.unwrap_err();
        assert!(error.is_unknown_outcome(), "{error}");
        session(&tree, SessionState::Connected).await;
        assert_eq!(tree.children(harness.base()).await.unwrap().len(), then);
    }
}
