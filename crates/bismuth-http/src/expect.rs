//! Delays a request body until the upstream has answered `Expect: 100-continue`.
//!
//! ```text
//! client ── head ──►  head ──► upstream
//!                     Gate (shut)
//!        ◄── 100 ──   opens ◄── 100        the body is read, which makes hyper say 100 to the client
//!        ── body ──►  opens                the client grew impatient and sent the body unasked
//! ```
//!
//! hyper's server says `100 Continue` when the body is first polled, and its client polls the body at once. The gate
//! stands between: the body is not polled before the upstream has asked for it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

/// Shut until somebody wants the body. Not `Rc`: hyper's informational callback must be `Send`.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    waiting: Option<Waker>,
}

impl Gate {
    pub(crate) fn open(&self) {
        let waiting = {
            // The lock guards two plain fields; a panic elsewhere cannot leave them half-written.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.open = true;
            state.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    pub(crate) fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.open {
            return Poll::Ready(());
        }
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}
