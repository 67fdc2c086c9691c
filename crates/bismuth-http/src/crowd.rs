//! How many clients a worker serves at a time, and who makes room for the next.
//!
//! ```text
//!  newcomer ─► room? ── yes ─► served
//!               │ no
//!               └─► the one that came first is asked to leave: at once if it is idle, else after its answer
//! ```
//!
//! So a crowd of connections that say nothing costs those who want an answer a moment, and not the entrance.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

/// An idle connection is gone within a turn of the loop; whoever was asked and is not will be some time.
const ASK_THE_NEXT: Duration = Duration::from_millis(5);

/// The clients of one worker. It belongs to one thread.
#[derive(Debug)]
pub struct Crowd {
    room: Arc<Semaphore>,
    most: usize,
    /// In the order in which they came; those that left are among them for a while.
    inside: RefCell<VecDeque<oneshot::Sender<()>>>,
}

/// A place inside, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    asked_to_leave: oneshot::Receiver<()>,
}

impl Crowd {
    /// A crowd of at most `most`.
    pub fn new(most: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(most)),
            most,
            inside: RefCell::default(),
        }
    }

    /// Waits for a place; how long depends on those inside. Cancel safe.
    pub async fn enter(&self) -> Place {
        match self.try_enter() {
            Some(place) => place,
            None => self.place(self.make_room().await),
        }
    }

    /// A place, if there is room.
    pub fn try_enter(&self) -> Option<Place> {
        let permit = Arc::clone(&self.room).try_acquire_owned();
        permit.ok().map(|permit| self.place(permit))
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        let (ask, asked_to_leave) = oneshot::channel();
        let mut inside = self.inside.borrow_mut();
        if inside.len() >= 2 * self.most {
            inside.retain(|client| !client.is_closed());
        }
        inside.push_back(ask);
        Place {
            _permit: permit,
            asked_to_leave,
        }
    }

    async fn make_room(&self) -> OwnedSemaphorePermit {
        let mut acquire = std::pin::pin!(Arc::clone(&self.room).acquire_owned());
        loop {
            self.ask_the_first();
            if let Ok(Ok(permit)) = timeout(ASK_THE_NEXT, &mut acquire).await {
                return permit;
            }
        }
    }

    fn ask_the_first(&self) {
        let mut inside = self.inside.borrow_mut();
        // Who has left already cannot hear it.
        while let Some(client) = inside.pop_front() {
            if client.send(()).is_ok() {
                return;
            }
        }
    }
}

impl Place {
    /// Returns when the place is wanted for somebody else.
    pub async fn wanted(&mut self) {
        // The worker is gone when the sender is dropped unsent; then the shutdown says so.
        if (&mut self.asked_to_leave).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn when_it_is_full_the_first_is_asked_and_then_the_next() {
        let crowd = Crowd::new(2);
        let mut first = crowd.enter().await;
        let mut second = crowd.enter().await;
        let newcomer = crowd.enter();
        let asked = async {
            first.wanted().await;
            // It is busy and stays.
            second.wanted().await;
            drop(second);
            first
        };
        let (_newcomer, _first) = tokio::join!(newcomer, asked);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_while_there_is_room_and_those_who_left_are_forgotten() {
        let crowd = Crowd::new(2);
        let mut stays = crowd.enter().await;
        for _ in 0..100 {
            drop(crowd.enter().await);
        }
        assert!(crowd.inside.borrow().len() <= 2 * crowd.most + 1);
        assert!(
            timeout(Duration::from_secs(1), stays.wanted())
                .await
                .is_err()
        );
    }
}
