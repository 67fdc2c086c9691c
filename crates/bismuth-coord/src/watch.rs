//! A watch: a bounded queue of events. When it overflows or events may be missing, it holds one `Lost` instead.
//!
//! ```text
//!  service ──► WatchSender ──[ Created, Changed, Deleted … | Lost ]──► Watch::next
//!                 overflow, reconnect, new session: the queue is emptied and Lost stands for all of it
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many events wait for their reader before they become one [`Event::Lost`]. A reader lists a whole
/// subtree anyway when it is that far behind; at some hundred bytes per event this is under one megabyte.
const CAPACITY: usize = 4096;

/// What happened below a watched path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node was created.
    Created {
        /// Which.
        path: String,
    },
    /// The data of a node changed.
    Changed {
        /// Of which.
        path: String,
    },
    /// A node was deleted, or went with the session that owned it.
    Deleted {
        /// Which.
        path: String,
    },
    /// Events may have been missed (the connection was lost, the session changed, or the reader was slow):
    /// list again. The watch itself is in place again when this is delivered, so a list made after it misses
    /// nothing.
    Lost,
}

impl Event {
    /// The node the event is about; `None` for [`Event::Lost`].
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Created { path } | Self::Changed { path } | Self::Deleted { path } => Some(path),
            Self::Lost => None,
        }
    }
}

/// A watch on a node and everything below it. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    queue: Arc<Queue>,
    // Whatever keeps the watch in place; only held, and dropped with the watch.
    #[allow(dead_code)]
    guard: Option<Guard>,
}

type Guard = Box<dyn std::any::Any + Send + Sync>;

impl Watch {
    /// The same watch, which drops `guard` when it is dropped.
    pub(crate) fn guarded_by(mut self, guard: impl std::any::Any + Send + Sync) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }

    /// The next event. Waits for as long as there is none; after a disconnection that is until the connection
    /// is back. Safe to cancel: an event is taken from the queue only when it is returned.
    pub async fn next(&mut self) -> Event {
        loop {
            // `Notify` stores one permit, so a push between the check and the await is not missed.
            let woken = self.queue.pushed.notified();
            if let Some(event) = self.queue.lock().pop() {
                return event;
            }
            woken.await;
        }
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.queue.lock().pop()
    }
}

/// The end of a watch that the implementation of a tree holds.
#[derive(Debug)]
pub(crate) struct WatchSender {
    queue: Arc<Queue>,
}

/// A watch and the sender that feeds it.
pub(crate) fn channel() -> (WatchSender, Watch) {
    let queue = Arc::new(Queue {
        state: Mutex::new(State::default()),
        pushed: Notify::new(),
    });
    (
        WatchSender {
            queue: queue.clone(),
        },
        Watch { queue, guard: None },
    )
}

impl WatchSender {
    /// Queues an event; [`Event::Lost`] takes the place of all that is queued.
    pub(crate) fn send(&self, event: Event) {
        self.queue.lock().push(event);
        self.queue.pushed.notify_one();
    }

    /// Whether the watch was dropped.
    pub(crate) fn is_closed(&self) -> bool {
        Arc::strong_count(&self.queue) == 1
    }
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    pushed: Notify,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole at every step, so a panic elsewhere in its holder does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    lost: bool,
    events: VecDeque<Event>,
}

impl State {
    fn push(&mut self, event: Event) {
        if event == Event::Lost || self.events.len() >= CAPACITY {
            self.events.clear();
            self.lost = true;
        } else {
            self.events.push_back(event);
        }
    }

    fn pop(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.lost) {
            return Some(Event::Lost);
        }
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(n: usize) -> Event {
        Event::Created {
            path: format!("/{n}"),
        }
    }

    #[tokio::test]
    async fn events_come_in_order() {
        let (sender, mut watch) = channel();
        sender.send(created(1));
        sender.send(created(2));
        assert_eq!(watch.next().await, created(1));
        assert_eq!(watch.next().await, created(2));
        assert_eq!(watch.try_next(), None);
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let (sender, mut watch) = channel();
        let reader = tokio::spawn(async move { watch.next().await });
        tokio::task::yield_now().await;
        sender.send(created(1));
        assert_eq!(reader.await.unwrap(), created(1));
    }

    #[tokio::test]
    async fn lost_replaces_all_queued_events() {
        let (sender, mut watch) = channel();
        sender.send(created(1));
        sender.send(Event::Lost);
        sender.send(created(2));
        assert_eq!(watch.next().await, Event::Lost);
        assert_eq!(watch.next().await, created(2));
    }

    #[tokio::test]
    async fn an_overflowing_queue_is_replaced_by_lost_and_stays_bounded() {
        let (sender, mut watch) = channel();
        for n in 0..CAPACITY * 3 {
            sender.send(created(n));
        }
        assert!(watch.queue.lock().events.len() <= CAPACITY);
        assert_eq!(watch.next().await, Event::Lost);
    }

    #[test]
    fn a_dropped_watch_is_seen_by_its_sender() {
        let (sender, watch) = channel();
        assert!(!sender.is_closed());
        drop(watch);
        assert!(sender.is_closed());
    }
}
