//! Harness of the conformance suite: a tree under test, an observer on another session, and fault injection.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bismuth_coord::memory::LostAnswer;
use bismuth_coord::{CreateMode, Event, Op, SessionState, Tree, Version, Watch, path};

/// No test waits longer than this for anything. Two loaded cores and a Java program under it are slow.
pub const TIMEOUT: Duration = Duration::from_secs(60);

#[async_trait]
pub trait TreeHarness: Send + Sync {
    /// The tree under test, whose connection the faults hit.
    fn tree(&self) -> Arc<dyn Tree>;
    /// The same data over another session, which no fault hits.
    fn observer(&self) -> Arc<dyn Tree>;
    /// The path that belongs to this case; it exists.
    fn base(&self) -> &str;
    /// Takes the connection away.
    fn cut(&self);
    /// Gives it back.
    fn heal(&self);
    /// Ends the session of the tree under test, and answers when its ephemeral nodes are gone.
    async fn expire(&self);
    /// Loses the answer to the next change.
    fn lose_next_answer(&self, how: LostAnswer);
}

/// The path of `name` in this harness.
pub fn at(harness: &dyn TreeHarness, name: &str) -> String {
    path::join(harness.base(), name)
}

/// Creates a persistent node in this harness.
pub async fn node(harness: &dyn TreeHarness, name: &str, data: &str) -> String {
    let path = at(harness, name);
    let tree = harness.tree();
    let created = tree.create(&path, data.as_bytes(), CreateMode::Persistent);
    created.await.unwrap();
    path
}

/// Creates a persistent node without data.
pub async fn persistent(tree: &(impl Tree + ?Sized), path: &str) {
    let created = tree.create(path, b"", CreateMode::Persistent);
    created.await.unwrap();
}

/// Creates an ephemeral node without data.
pub async fn ephemeral(tree: &(impl Tree + ?Sized), path: &str) {
    let created = tree.create(path, b"", CreateMode::Ephemeral);
    created.await.unwrap();
}

// Steps of a transaction.

pub fn create(path: &str, data: &str) -> Op {
    Op::Create {
        path: path.to_owned(),
        data: data.to_owned().into(),
        mode: CreateMode::Persistent,
    }
}

pub fn set(path: &str, data: &str, expected: Option<i32>) -> Op {
    Op::Set {
        path: path.to_owned(),
        data: data.to_owned().into(),
        expected: expected.map(Version),
    }
}

pub fn delete(path: &str, expected: Option<i32>) -> Op {
    Op::Delete {
        path: path.to_owned(),
        expected: expected.map(Version),
    }
}

pub fn check(path: &str, expected: i32) -> Op {
    Op::Check {
        path: path.to_owned(),
        expected: Version(expected),
    }
}

/// The call is refused with this error.
macro_rules! refused {
    ($call:expr, $error:pat $(if $is_meant:expr)?) => {
        match $call.await {
            Err($error) $(if $is_meant)? => {}
            other => panic!("{other:?}"),
        }
    };
}
pub(crate) use refused;

pub async fn next(watch: &mut Watch) -> Event {
    tokio::time::timeout(TIMEOUT, watch.next())
        .await
        .expect("an event comes")
}

/// Reads events up to and including the wanted one, and answers those before it.
pub async fn until(watch: &mut Watch, wanted: &Event) -> Vec<Event> {
    let mut before = Vec::new();
    loop {
        let event = tokio::time::timeout(TIMEOUT, watch.next())
            .await
            .unwrap_or_else(|_| panic!("{wanted:?} comes; until now came {before:?}"));
        if event == *wanted {
            return before;
        }
        before.push(event);
    }
}

/// Waits until the session of the tree is in this state.
pub async fn session(tree: &Arc<dyn Tree>, wanted: SessionState) {
    let mut states = tree.session();
    let reached = tokio::time::timeout(TIMEOUT, states.wait_for(|state| *state == wanted)).await;
    assert!(reached.is_ok(), "the session becomes {wanted:?}");
}

pub fn created(path: &str) -> Event {
    let path = path.to_owned();
    Event::Created { path }
}

pub fn changed(path: &str) -> Event {
    let path = path.to_owned();
    Event::Changed { path }
}

pub fn deleted(path: &str) -> Event {
    let path = path.to_owned();
    Event::Deleted { path }
}
