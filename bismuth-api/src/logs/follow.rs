//! Follows the logs of all instances of a function, as instances come and go.
//!
//! ```text
//!  history ─► out, then
//!
//!  node 1 ─► task ─┐                              every 2 s: which instances are there now?
//!  node 2 ─► task ─┼─► reorder ─► out               new: another task
//!  node 3 ─► task ─┘   (250 ms)                     gone: its task ends after a minute
//! ```
//!
//! A task whose node goes away reconnects and reads on where it was.

use std::collections::HashMap;
use std::time::Duration;

use bismuth_base::{Backoff, chain};
use bismuth_daemon::Shutdown;
use bismuth_model::FunctionId;
use bismuth_registry::Registry;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use super::client::{LogClient, LogOptions};
use super::history::{History, MAX_SOURCES, Position};
use super::instances;
use super::record::{Instance, Record};
use super::reorder::ReorderBuffer;

/// How soon a new instance is heard.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// Longer than bismuthd drains a container, which may print until its end.
const REMOVED_GRACE: Duration = Duration::from_secs(60);
/// A node that does not answer, or a container that has printed nothing yet.
const REOPEN: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
/// Records of all tasks on their way to the reordering.
const QUEUE: usize = 128;

/// What a follower is sent.
#[derive(Debug)]
pub(super) enum FollowEvent {
    /// Something was printed.
    Record(Instance, Record),
    /// A log cannot be read for the time being.
    Gap(Instance, String),
    /// There is nothing more to come.
    End(&'static str),
}

/// The work behind one follower. Ends when the follower goes, the function is deleted, or the shutdown.
pub(super) struct Follower {
    pub(super) registry: Registry,
    pub(super) client: LogClient,
    pub(super) function: FunctionId,
    pub(super) options: LogOptions,
    pub(super) out: mpsc::Sender<FollowEvent>,
    pub(super) shutdown: Shutdown,
}

/// The task that follows one log.
struct SourceTask {
    gone_since: Option<Instant>,
    _task: AbortOnDropHandle<()>,
}

/// The client has disconnected.
struct ClientGone;

impl Follower {
    pub(super) async fn run(self, first: Vec<Instance>) {
        let out = self.out.clone();
        let shutdown = self.shutdown.clone();
        // Dropping the work ends its tasks.
        let end = tokio::select! {
            () = out.closed() => return,
            () = shutdown.cancelled() => "the API is ending",
            ended = self.follow(first) => match ended {
                Ok(end) => end,
                Err(ClientGone) => return,
            },
        };
        // The follower may have gone at this very moment.
        let _ = out.send(FollowEvent::End(end)).await;
    }

    async fn follow(self, first: Vec<Instance>) -> Result<&'static str, ClientGone> {
        let mut positions = self.send_history(&first).await?;
        let (sender, mut arriving) = mpsc::channel(QUEUE);
        let mut tasks: HashMap<Instance, SourceTask> = HashMap::new();
        for instance in first {
            let position = positions.remove(&instance).unwrap_or_default();
            tasks.insert(instance, self.follow_source(instance, position, &sender));
        }
        let mut reorder = ReorderBuffer::default();
        let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = reorder.due();
            // Safe to cancel, each: what was not received stays in its queue.
            tokio::select! {
                () = until(due), if due.is_some() => {
                    for (instance, record) in reorder.take_due(Instant::now()) {
                        self.send(FollowEvent::Record(instance, record)).await?;
                    }
                }
                Some(event) = arriving.recv() => match event {
                    FollowEvent::Record(instance, record) => reorder.push(Instant::now(), instance, record),
                    other => self.send(other).await?,
                },
                _ = refresh.tick() => if !self.refresh_sources(&mut tasks, &sender).await {
                    return Ok("the function was deleted");
                },
            }
        }
    }

    /// Sends what was printed so far, and how far each log was read.
    async fn send_history(
        &self,
        instances: &[Instance],
    ) -> Result<HashMap<Instance, Position>, ClientGone> {
        let options = LogOptions {
            follow: false,
            ..self.options.clone()
        };
        let (mut history, missing) = History::open(self.client, instances, &options).await;
        for (instance, error) in missing {
            self.send(FollowEvent::Gap(instance, chain(&error))).await?;
        }
        let sent = match self.options.tail {
            Some(lines) if instances.len() > 1 => match history.newest(lines).await {
                Ok(kept) => {
                    for (instance, record) in kept {
                        self.send(FollowEvent::Record(instance, record)).await?;
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            },
            _ => loop {
                match history.next().await {
                    Ok(Some((instance, record))) => {
                        self.send(FollowEvent::Record(instance, record)).await?
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            },
        };
        if let Err(error) = sent {
            // The tasks read on from where it broke off, and say which node it is if it stays so.
            tracing::debug!(function = %self.function, error = chain(&error), "the history of a log broke off");
        }
        Ok(history.into_positions())
    }

    /// Starts and ends tasks as instances come and go; `false` when the function is gone.
    async fn refresh_sources(
        &self,
        tasks: &mut HashMap<Instance, SourceTask>,
        sender: &mpsc::Sender<FollowEvent>,
    ) -> bool {
        let now = match instances(&self.registry, self.function).await {
            Ok(Some(now)) => now,
            Ok(None) => return false,
            // ZooKeeper is away; the nodes are not.
            Err(error) => {
                tracing::debug!(function = %self.function, error = chain(&error), "cannot look for new instances");
                return true;
            }
        };
        for (instance, task) in tasks.iter_mut() {
            match (now.contains(instance), task.gone_since) {
                (true, _) => task.gone_since = None,
                (false, None) => task.gone_since = Some(Instant::now()),
                (false, Some(_)) => {}
            }
        }
        tasks.retain(|_, task| {
            task.gone_since
                .is_none_or(|since| since.elapsed() < REMOVED_GRACE)
        });
        for instance in now {
            if tasks.len() < MAX_SOURCES && !tasks.contains_key(&instance) {
                tasks.insert(
                    instance,
                    self.follow_source(instance, Position::default(), sender),
                );
            }
        }
        true
    }

    fn follow_source(
        &self,
        instance: Instance,
        position: Position,
        sender: &mpsc::Sender<FollowEvent>,
    ) -> SourceTask {
        let work = follow_source(
            self.client,
            instance,
            position,
            self.options.clone(),
            sender.clone(),
        );
        SourceTask {
            gone_since: None,
            _task: AbortOnDropHandle::new(tokio::spawn(work)),
        }
    }

    async fn send(&self, event: FollowEvent) -> Result<(), ClientGone> {
        self.out.send(event).await.map_err(|_| ClientGone)
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Follows one log for as long as it is let.
async fn follow_source(
    client: LogClient,
    instance: Instance,
    mut position: Position,
    first: LogOptions,
    out: mpsc::Sender<FollowEvent>,
) {
    let mut delays = REOPEN.delays();
    let mut gap_sent = false;
    loop {
        let options = match position.resume() {
            Some(since) => LogOptions {
                tail: None,
                since: Some(since),
                follow: true,
            },
            None => LogOptions {
                follow: true,
                ..first.clone()
            },
        };
        let failure = match client.open(instance, &options).await {
            Ok(Some(mut records)) => loop {
                match records.next().await {
                    Ok(Some(record)) => {
                        (gap_sent, delays) = (false, REOPEN.delays());
                        if position.pass(&record)
                            && out
                                .send(FollowEvent::Record(instance, record))
                                .await
                                .is_err()
                        {
                            return;
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            },
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if let Some(error) = failure
            && !std::mem::replace(&mut gap_sent, true)
            && out
                .send(FollowEvent::Gap(instance, chain(&error)))
                .await
                .is_err()
        {
            return;
        }
        tokio::time::sleep(delays.next_delay()).await;
    }
}
