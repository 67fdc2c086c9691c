//! Election and fence: one candidate leads at a time, and one whose term is over writes nothing.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bismuth_coord::memory::LostAnswer;
use bismuth_coord::path::join;
use bismuth_coord::{
    CreateMode, Error as TreeError, MemoryTree, Op, Result as TreeResult, SessionState, Tree,
    Version, Versioned, Watch,
};
use bismuth_model::{Backend, Environment, FunctionId, LeaderRecord, TermRecord};
use bismuth_registry::codec::Record;
use bismuth_registry::{ElectionState, Error, Registry, Term};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::fixture::{BOUND, Fixture, NODES, definition, on, shows, slot};

/// A candidate that runs; its work does nothing until it is dropped.
struct Running {
    state: watch::Receiver<ElectionState>,
    /// The terms that it led in, each with its registry.
    terms: mpsc::UnboundedReceiver<(Term, Registry)>,
    /// How many works there are that were not dropped.
    works: Arc<AtomicUsize>,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Counts a work until it is dropped.
struct Work(Arc<AtomicUsize>);

impl Work {
    fn begin(works: &Arc<AtomicUsize>) -> Self {
        works.fetch_add(1, Ordering::SeqCst);
        Self(works.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Running {
    fn start(f: &Fixture, name: &str) -> Self {
        let candidate = f.registry.candidate(name);
        let state = candidate.state();
        let (sender, terms) = mpsc::unbounded_channel();
        let works = Arc::<AtomicUsize>::default();
        let (end, ended) = oneshot::channel::<()>();
        let ended = async move {
            let _ = ended.await;
        };
        let counted = works.clone();
        let task = tokio::spawn(candidate.run(ended, move |term, registry| {
            let work = Work::begin(&counted);
            let _ = sender.send((term, registry));
            async move {
                let _work = work;
                pending::<()>().await;
            }
        }));
        Self {
            state,
            terms,
            works,
            end,
            task,
        }
    }

    /// The next term that it leads in.
    async fn leads(&mut self, number: u64) -> (Term, Registry) {
        let next = timeout(BOUND, self.terms.recv()).await;
        let (term, registry) = next.expect("it never leads").expect("it runs");
        assert_eq!(term.number(), number);
        (term, registry)
    }

    async fn follows(&mut self, name: &str, term: u64) {
        shows(&mut self.state, &format!("that {name} leads"), |state| {
            matches!(state, ElectionState::Following(leader) if leader.name == name && leader.term == term)
        })
        .await;
    }

    async fn is_blocked(&mut self) -> String {
        let blocked = |state: &ElectionState| matches!(state, ElectionState::Blocked { .. });
        match shows(&mut self.state, "that it is blocked", blocked).await {
            ElectionState::Blocked { problem } => problem,
            other => panic!("{other:?}"),
        }
    }

    fn works(&self) -> usize {
        self.works.load(Ordering::SeqCst)
    }

    async fn stop(self) {
        self.end.send(()).unwrap();
        self.task.await.unwrap();
        assert_eq!(self.works.load(Ordering::SeqCst), 0);
    }
}

/// Everything in the tree, with versions.
async fn everything(tree: &MemoryTree) -> Vec<(String, Versioned)> {
    let (mut found, mut next) = (Vec::new(), vec!["/".to_owned()]);
    while let Some(path) = next.pop() {
        for name in tree.children(&path).await.unwrap() {
            next.push(join(&path, &name));
        }
        let node = tree.get(&path).await.unwrap();
        // To others no session's node is theirs.
        found.push((
            path,
            Versioned {
                mine: false,
                ..node
            },
        ));
    }
    found
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_one_leads_and_the_other_follows_it() {
    let f = Fixture::new().await;
    let other = f.other();
    let mut first = Running::start(&f, "first");
    let (term, _) = first.leads(1).await;
    let mut second = Running::start(&other, "second");
    second.follows("first", 1).await;
    assert_eq!(*first.state.borrow(), ElectionState::Leading(term));
    assert_eq!((first.works(), second.works()), (1, 0));

    let layout = f.registry.layout();
    let leader = f.tree.get(&layout.leader()).await.unwrap();
    let leader = LeaderRecord::decode(&leader.data).unwrap();
    assert_eq!((leader.name.as_str(), leader.term), ("first", 1));
    let latest = f.tree.get(&layout.term()).await.unwrap();
    let latest = TermRecord::decode(&latest.data).unwrap();
    assert_eq!((latest.name.as_str(), latest.number), ("first", 1));
    assert_eq!(f.registry.audit().await.unwrap(), []);

    // One that does not lead takes nothing with it.
    second.stop().await;
    assert!(f.exists(&layout.leader()).await);
    assert_eq!(*first.state.borrow(), ElectionState::Leading(term));
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_is_told_to_end_makes_room_at_once() {
    let f = Fixture::new().await;
    let other = f.other();
    let mut first = Running::start(&f, "first");
    first.leads(1).await;
    let mut second = Running::start(&other, "second");
    second.follows("first", 1).await;
    let told = Instant::now();
    first.stop().await;
    second.leads(2).await;
    assert!(
        told.elapsed() < Duration::from_secs(1),
        "{:?}",
        told.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_session_ended_drops_its_work_and_follows_the_next() {
    let f = Fixture::new().await;
    let other = f.other();
    let mut first = Running::start(&f, "first");
    first.leads(1).await;
    let mut second = Running::start(&other, "second");
    second.follows("first", 1).await;
    f.tree.disconnect();
    f.tree.expire();
    // Although it cannot ask, it knows.
    shows(&mut first.state, "that it leads no more", |state| {
        *state == ElectionState::Unknown
    })
    .await;
    second.leads(2).await;
    assert_eq!((first.works(), second.works()), (0, 1));
    f.tree.reconnect();
    first.follows("second", 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_znode_was_deleted_drops_its_work_and_another_takes_over() {
    let f = Fixture::new().await;
    let other = f.other();
    let mut first = Running::start(&f, "first");
    first.leads(1).await;
    let mut second = Running::start(&other, "second");
    second.follows("first", 1).await;
    other.remove(&f.registry.layout().leader()).await;
    second.leads(2).await;
    first.follows("second", 2).await;
    assert_eq!((first.works(), second.works()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_leader_alone_whose_znode_was_deleted_begins_another_term() {
    let f = Fixture::new().await;
    let mut only = Running::start(&f, "only");
    only.leads(1).await;
    f.other().remove(&f.registry.layout().leader()).await;
    only.leads(2).await;
    assert_eq!(only.works(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_connection_goes_on_until_its_session_ends() {
    let f = Fixture::new().await;
    let mut only = Running::start(&f, "only");
    let (term, _) = only.leads(1).await;
    f.tree.disconnect();
    // Longer than it waits between looks.
    tokio::time::advance(Duration::from_secs(5)).await;
    f.tree.reconnect();
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(*only.state.borrow(), ElectionState::Leading(term));
    assert_eq!(only.works(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_term_that_was_changed_by_a_hand_is_over_and_the_next_one_begins() {
    let f = Fixture::new().await;
    let mut only = Running::start(&f, "only");
    only.leads(1).await;
    // Its data cannot be read, which does not matter: only the version does.
    f.other().put(&f.registry.layout().term(), b"?").await;
    only.leads(3).await;
    let latest = f.tree.get(&f.registry.layout().term()).await.unwrap();
    assert_eq!(TermRecord::decode(&latest.data).unwrap().number, 3);
    assert_eq!(only.works(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_znode_of_an_earlier_session_of_the_same_process_is_waited_out() {
    let f = Fixture::new().await;
    let earlier = f.other();
    let mut before = Running::start(&earlier, "same");
    before.leads(1).await;
    before.task.abort();
    let mut now = Running::start(&f, "same");
    now.follows("same", 1).await;
    earlier.tree.expire();
    now.leads(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_candidate_whose_answer_was_lost_finds_out_whether_it_was_elected() {
    for how in [LostAnswer::BeforeChange, LostAnswer::AfterChange] {
        let f = Fixture::new().await;
        f.tree.lose_next_answer(how);
        let mut only = Running::start(&f, "only");
        let (_, fenced) = only.leads(1).await;
        fenced.provision_node([10, 0, 0, 1].into()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn candidates_wait_for_the_environment() {
    let tree = MemoryTree::new();
    let registry = on(&tree);
    let f = Fixture { tree, registry };
    let mut only = Running::start(&f, "only");
    tokio::time::advance(Duration::from_secs(60)).await;
    f.registry.bootstrap().await.unwrap();
    only.leads(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_persistent_leader_znode_is_left_alone_and_nobody_leads_until_it_is_repaired() {
    let f = Fixture::new().await;
    let path = f.registry.layout().leader();
    f.put(&path, b"mine").await;
    let other = f.other();
    let mut candidates = [
        Running::start(&f, "first"),
        Running::start(&other, "second"),
    ];
    for candidate in &mut candidates {
        let problem = candidate.is_blocked().await;
        assert!(problem.contains(&path), "{problem}");
        assert!(problem.contains("consistency --repair"), "{problem}");
    }
    tokio::time::advance(Duration::from_secs(600)).await;
    let node = f.tree.get(&path).await.unwrap();
    assert_eq!((&node.data[..], node.ephemeral), (&b"mine"[..], false));
    assert_eq!(candidates.each_ref().map(Running::works), [0, 0]);

    f.registry.repair_all(Duration::ZERO).await.unwrap();
    let [first, second] = &mut candidates;
    tokio::select! {
        _ = first.leads(1) => second.follows("first", 1).await,
        _ = second.leads(1) => first.follows("second", 1).await,
    }
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_leader_znode_that_cannot_be_read_is_waited_out() {
    let f = Fixture::new().await;
    let path = f.registry.layout().leader();
    let stranger = f.other();
    stranger
        .tree
        .create(&path, b"?", CreateMode::Ephemeral)
        .await
        .unwrap();
    let mut only = Running::start(&f, "only");
    let problem = only.is_blocked().await;
    assert!(problem.contains("cannot be read"), "{problem}");
    assert!(f.exists(&path).await);
    stranger.tree.expire();
    only.leads(1).await;
}

/// A function with two slots, of which one is routed, and what a leader of an earlier term has of it.
struct Paused {
    f: Fixture,
    id: FunctionId,
    slots: [Backend; 2],
    /// The registry of the leader that was paused.
    earlier: Registry,
    /// Its connection.
    tree: MemoryTree,
}

/// The first leader was paused for longer than its session lived, and knows nothing of it; the second leads.
async fn paused_and_replaced() -> (Paused, Running) {
    let f = Fixture::new().await;
    let slots = [slot(NODES[0]), slot(NODES[1])];
    let id = f.function(&definition(&["a.b"]), &slots[..1]).await;
    let function = f.registry.function(id).await.unwrap().unwrap();
    f.registry
        .replace_definition(id, &definition(&["a.b"]), function.version, &slots[1..])
        .await
        .unwrap();
    let paused = f.other();
    let mut first = Running::start(&paused, "first");
    let (_, earlier) = first.leads(1).await;
    earlier.provision_node([10, 0, 0, 1].into()).await.unwrap();
    first.task.abort();
    paused.tree.expire();
    let mut second = Running::start(&f, "second");
    second.leads(2).await;
    let paused = Paused {
        id,
        slots,
        earlier,
        tree: paused.tree,
        f,
    };
    (paused, second)
}

#[track_caller]
fn lost<T: std::fmt::Debug>(result: Result<T, Error>) {
    match result {
        Err(error @ Error::TermLost { term: 1, .. }) => assert!(!error.is_unavailable()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_paused_beyond_its_session_writes_nothing() {
    let (p, second) = paused_and_replaced().await;
    let before = everything(&p.f.tree).await;
    let [old, new] = p.slots;
    let (r, began) = (&p.earlier, Instant::now());
    lost(r.switch_backends(p.id, &[new]).await);
    lost(r.release_container(new.ip, new.container_id).await);
    lost(r.remove_backend(p.id, old.ip, old.container_id).await);
    lost(r.add_backend(p.id, NODES[2]).await);
    lost(r.delete_function(p.id).await);
    lost(r.set_schedulable(NODES[0], false).await);
    lost(
        r.create_function(FunctionId::new_random(), &definition(&["c.d"]), &[])
            .await,
    );
    let version = r.function(p.id).await.unwrap().unwrap().version;
    lost(
        r.replace_definition(p.id, &definition(&[]), version, &[])
            .await,
    );
    assert_eq!(everything(&p.f.tree).await, before);
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing was tried again");
    assert_eq!(second.works(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_term_every_fenced_change_is_refused() {
    let (p, _second) = paused_and_replaced().await;
    p.f.remove(&p.f.registry.layout().term()).await;
    lost(p.earlier.switch_backends(p.id, &[]).await);
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_was_lost_and_that_the_fence_then_refuses_was_not_made() {
    let (p, _second) = paused_and_replaced().await;
    let before = everything(&p.f.tree).await;
    p.tree.lose_next_answer(LostAnswer::BeforeChange);
    lost(p.earlier.switch_backends(p.id, &p.slots[1..]).await);
    assert_eq!(everything(&p.f.tree).await, before);
}

/// What happens instead of a transaction.
type Commit = dyn Fn(MemoryTree, Vec<Op>) -> BoxFuture<'static, TreeResult<()>> + Send + Sync;

/// A connection on which a test decides what becomes of each transaction.
struct ScriptedTree {
    tree: MemoryTree,
    commit: Box<Commit>,
}

#[async_trait]
impl Tree for ScriptedTree {
    async fn get(&self, path: &str) -> TreeResult<Versioned> {
        self.tree.get(path).await
    }
    async fn exists(&self, path: &str) -> TreeResult<Option<Version>> {
        self.tree.exists(path).await
    }
    async fn children(&self, path: &str) -> TreeResult<Vec<String>> {
        self.tree.children(path).await
    }
    async fn get_many(&self, paths: &[String]) -> Vec<TreeResult<Versioned>> {
        self.tree.get_many(paths).await
    }
    async fn create(&self, path: &str, data: &[u8], mode: CreateMode) -> TreeResult<Version> {
        self.tree.create(path, data, mode).await
    }
    async fn set(&self, path: &str, data: &[u8], expected: Option<Version>) -> TreeResult<Version> {
        self.tree.set(path, data, expected).await
    }
    async fn delete(&self, path: &str, expected: Option<Version>) -> TreeResult<()> {
        self.tree.delete(path, expected).await
    }
    async fn commit(&self, ops: Vec<Op>) -> TreeResult<()> {
        (self.commit)(self.tree.clone(), ops).await
    }
    async fn watch(&self, path: &str) -> TreeResult<Watch> {
        self.tree.watch(path).await
    }
    fn session(&self) -> watch::Receiver<SessionState> {
        self.tree.session()
    }
}

/// A registry whose transactions become what `commit` makes of them.
fn scripted<F>(tree: &MemoryTree, commit: F) -> Registry
where
    F: Fn(MemoryTree, Vec<Op>) -> BoxFuture<'static, TreeResult<()>> + Send + Sync + 'static,
{
    let tree = ScriptedTree {
        tree: tree.clone(),
        commit: Box::new(commit),
    };
    Registry::new(Arc::new(tree), Environment::default())
}

#[tokio::test(start_paused = true)]
async fn a_change_that_arrived_late_and_before_the_next_term_was_made() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&[]), &[]).await;
    let (term, _) = Running::start(&f, "leader").leads(1).await;
    let (late, latest) = (Arc::new(Mutex::new(None)), f.registry.layout().term());
    // The first arrives after its answer was given up and before it is sent again; then the next leader begins its term.
    let registry = scripted(&f.tree, move |tree, ops| {
        let (late, latest) = (late.clone(), latest.clone());
        Box::pin(async move {
            let earlier: Option<Vec<Op>> = late.lock().unwrap().take();
            let Some(earlier) = earlier else {
                *late.lock().unwrap() = Some(ops);
                return Err(TreeError::UnknownOutcome {
                    act: "commit",
                    path: latest,
                    source: "it is late".into(),
                });
            };
            tree.commit(earlier).await?;
            tree.set(&latest, b"the next", None).await?;
            tree.commit(ops).await
        })
    });
    let added = registry.fenced(term).add_backend(id, NODES[0]).await;
    let now = f.registry.function(id).await.unwrap().unwrap();
    assert_eq!(now.backends, [added.unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_next_leader_overtook_is_not_tried_again() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&[]), &[]).await;
    let (term, _) = Running::start(&f, "leader").leads(1).await;
    let paths = (f.registry.layout().term(), f.registry.layout().backends(id));
    let sent = Arc::<AtomicUsize>::default();
    let counted = sent.clone();
    // Between what it read and its transaction, the next leader began its term and changed the same list.
    let registry = scripted(&f.tree, move |tree, ops| {
        counted.fetch_add(1, Ordering::SeqCst);
        let (latest, list) = paths.clone();
        Box::pin(async move {
            tree.set(&latest, b"the next", None).await?;
            tree.set(&list, b"", None).await?;
            tree.commit(ops).await
        })
    });
    lost(registry.fenced(term).add_backend(id, NODES[0]).await);
    assert_eq!(sent.load(Ordering::SeqCst), 1);
}
