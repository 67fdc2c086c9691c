//! What is being printed, by all instances that there are at any time.
//!
//! ```text
//!  history ─► out, then
//!
//!  node 1 ─► pump ─┐                              every 2 s: which instances are there now?
//!  node 2 ─► pump ─┼─► reorder ─► out               new: a pump more
//!  node 3 ─► pump ─┘   (250 ms)                     gone: its pump ends after a minute
//! ```
//!
//! A pump whose node goes away comes back and reads on where it was.

use std::collections::HashMap;
use std::time::Duration;

use bismuth_daemon::exit::chain;
use bismuth_daemon::{Backoff, Shutdown};
use bismuth_model::FunctionId;
use bismuth_registry::Registry;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::client::{LogClient, OnDrop, Wanted};
use super::history::{History, MAX_SOURCES, Position};
use super::instances;
use super::record::{Instance, Record};
use super::reorder::Reorder;

/// How soon a new instance is heard.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Longer than bismuthd drains a container, which may print until its end.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// A node that does not answer, or a container that has printed nothing yet.
const REOPEN: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
/// Records of all pumps on their way to the reordering.
const QUEUE: usize = 128;

/// What a follower is told.
#[derive(Debug)]
pub(super) enum Told {
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
    pub(super) wanted: Wanted,
    pub(super) out: mpsc::Sender<Told>,
    pub(super) shutdown: Shutdown,
}

/// A log being followed.
struct Pumped {
    gone_since: Option<Instant>,
    _pump: OnDrop,
}

/// The follower is not there any more.
struct Gone;

impl Follower {
    pub(super) async fn run(self, first: Vec<Instance>) {
        let out = self.out.clone();
        let shutdown = self.shutdown.clone();
        // Dropping the work ends its pumps.
        let end = tokio::select! {
            () = out.closed() => return,
            () = shutdown.cancelled() => "the API is ending",
            ended = self.follow(first) => match ended {
                Ok(end) => end,
                Err(Gone) => return,
            },
        };
        // The follower may have gone at this very moment.
        let _ = out.send(Told::End(end)).await;
    }

    async fn follow(self, first: Vec<Instance>) -> Result<&'static str, Gone> {
        let mut positions = self.past(&first).await?;
        let (sender, mut arriving) = mpsc::channel(QUEUE);
        let mut pumps: HashMap<Instance, Pumped> = HashMap::new();
        for instance in first {
            let position = positions.remove(&instance).unwrap_or_default();
            pumps.insert(instance, self.pump(instance, position, &sender));
        }
        let mut reorder = Reorder::default();
        let mut look = tokio::time::interval(LOOK_AGAIN);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = reorder.due();
            // Safe to cancel, each: what was not received stays in its queue.
            tokio::select! {
                () = until(due), if due.is_some() => {
                    for (instance, record) in reorder.take_due(Instant::now()) {
                        self.tell(Told::Record(instance, record)).await?;
                    }
                }
                Some(told) = arriving.recv() => match told {
                    Told::Record(instance, record) => reorder.push(Instant::now(), instance, record),
                    other => self.tell(other).await?,
                },
                _ = look.tick() => if !self.look(&mut pumps, &sender).await {
                    return Ok("the function was deleted");
                },
            }
        }
    }

    /// Tells what was printed so far, and how far each log was read.
    async fn past(&self, instances: &[Instance]) -> Result<HashMap<Instance, Position>, Gone> {
        let wanted = Wanted {
            follow: false,
            ..self.wanted.clone()
        };
        let (mut history, missing) = History::open(self.client, instances, &wanted).await;
        for (instance, error) in missing {
            self.tell(Told::Gap(instance, chain(&error))).await?;
        }
        let told = match self.wanted.tail {
            Some(lines) if instances.len() > 1 => match history.newest(lines).await {
                Ok(kept) => {
                    for (instance, record) in kept {
                        self.tell(Told::Record(instance, record)).await?;
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            },
            _ => loop {
                match history.next().await {
                    Ok(Some((instance, record))) => {
                        self.tell(Told::Record(instance, record)).await?
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            },
        };
        if let Err(error) = told {
            // The pumps read on from where it broke off, and say which node it is if it stays so.
            tracing::debug!(function = %self.function, error = chain(&error), "the past of a log broke off");
        }
        Ok(history.into_positions())
    }

    /// Starts and ends pumps as instances come and go; `false` when the function is gone.
    async fn look(
        &self,
        pumps: &mut HashMap<Instance, Pumped>,
        sender: &mpsc::Sender<Told>,
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
        for (instance, pumped) in pumps.iter_mut() {
            match (now.contains(instance), pumped.gone_since) {
                (true, _) => pumped.gone_since = None,
                (false, None) => pumped.gone_since = Some(Instant::now()),
                (false, Some(_)) => {}
            }
        }
        pumps.retain(|_, pumped| {
            pumped
                .gone_since
                .is_none_or(|since| since.elapsed() < LAST_WORDS)
        });
        for instance in now {
            if pumps.len() < MAX_SOURCES && !pumps.contains_key(&instance) {
                pumps.insert(instance, self.pump(instance, Position::default(), sender));
            }
        }
        true
    }

    fn pump(&self, instance: Instance, position: Position, sender: &mpsc::Sender<Told>) -> Pumped {
        let work = pump(
            self.client,
            instance,
            position,
            self.wanted.clone(),
            sender.clone(),
        );
        Pumped {
            gone_since: None,
            _pump: OnDrop(tokio::spawn(work).abort_handle()),
        }
    }

    async fn tell(&self, told: Told) -> Result<(), Gone> {
        self.out.send(told).await.map_err(|_| Gone)
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Follows one log for as long as it is let.
async fn pump(
    client: LogClient,
    instance: Instance,
    mut position: Position,
    first: Wanted,
    out: mpsc::Sender<Told>,
) {
    let mut delays = REOPEN.delays();
    let mut gap_told = false;
    loop {
        let wanted = match position.resume() {
            Some(since) => Wanted {
                tail: None,
                since: Some(since),
                follow: true,
            },
            None => Wanted {
                follow: true,
                ..first.clone()
            },
        };
        let failure = match client.open(instance, &wanted).await {
            Ok(Some(mut records)) => loop {
                match records.next().await {
                    Ok(Some(record)) => {
                        (gap_told, delays) = (false, REOPEN.delays());
                        if position.pass(&record)
                            && out.send(Told::Record(instance, record)).await.is_err()
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
            && !std::mem::replace(&mut gap_told, true)
            && out.send(Told::Gap(instance, chain(&error))).await.is_err()
        {
            return;
        }
        tokio::time::sleep(delays.next_delay()).await;
    }
}
