//! The writer thread: group commit of queued batches and sweeps.
//!
//! ```text
//!   write() ─┐
//!   write() ─┼─► inbox ─► take all that waits ─► one transaction ─► one durable commit ─► answer all
//!   sweep() ─┘            (what comes meanwhile waits for the next)     └ a refused batch is left out
//! ```
//!
//! One commit costs the same for one batch as for a hundred, so that many writers are not slower than one.
//!
//! When the disk is full, what grows is refused, and what frees room is made on the reserve.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bismuth_base::LogThrottle;
use tokio::sync::{mpsc, oneshot};

use super::open_tables::OpenTables;
use super::reserve::Reserve;
use super::store::{ENGINE, Store};
use crate::records::{Change, EngineError, Owner, Write, Written, now_ms};

/// So many requests are taken into one commit: 32 writers by far, and an answer is not kept waiting by a hundred thousand.
const MOST_REQUESTS: usize = 512;
/// And so many bytes of values, so that a commit stays below some ten milliseconds.
const MOST_BYTES: usize = 4 << 20;
/// After the disk was full, only what frees room is tried for this long: each failure costs opening the store again.
const TIGHT: Duration = Duration::from_secs(1);

type Answer<T> = oneshot::Sender<Result<T, EngineError>>;

/// Something for the thread to do.
pub(super) enum Request {
    /// Makes a batch.
    Write {
        batch: Vec<Write>,
        answer: Answer<Vec<Written>>,
    },
    /// Removes what has expired.
    Sweep {
        of: Option<Owner>,
        limit: usize,
        answer: Answer<usize>,
    },
}

/// Works until nobody can ask any more.
pub(super) fn run(store: &Arc<Store>, reserve: Reserve, mut inbox: mpsc::Receiver<Request>) {
    let mut writer = Writer {
        store: Arc::clone(store),
        reserve,
        tight_until: None,
    };
    while let Some(first) = inbox.blocking_recv() {
        writer.serve(gather(first, &mut inbox));
    }
}

struct Writer {
    store: Arc<Store>,
    reserve: Reserve,
    /// After the disk was full, what grows is not tried before.
    tight_until: Option<Instant>,
}

impl Writer {
    fn serve(&mut self, mut requests: Vec<Request>) {
        if self.tight_until.is_some_and(|until| Instant::now() < until) {
            requests = refuse_growth(requests);
        }
        let frees = requests.iter().any(Request::frees);
        match commit(&self.store, requests) {
            Ok(()) if frees => self.tight_until = None,
            Ok(()) => {}
            Err((EngineError::Full { .. }, requests)) => return self.is_full(requests),
            Err((error, requests)) => fail(requests, &error),
        }
        self.reserve.hold();
    }

    /// Refuses what grows, and makes what frees room on the reserve.
    fn is_full(&mut self, requests: Vec<Request>) {
        self.tight_until = Some(Instant::now() + TIGHT);
        let requests = refuse_growth(requests);
        if requests.is_empty() {
            return;
        }
        self.reserve.release();
        match commit(&self.store, requests) {
            Ok(()) => self.tight_until = None,
            Err((error, requests)) => fail(requests, &error),
        }
    }
}

fn gather(first: Request, inbox: &mut mpsc::Receiver<Request>) -> Vec<Request> {
    let mut bytes = first.bytes();
    let mut requests = vec![first];
    while requests.len() < MOST_REQUESTS && bytes < MOST_BYTES {
        let Ok(request) = inbox.try_recv() else { break };
        bytes += request.bytes();
        requests.push(request);
    }
    requests
}

fn refuse_growth(requests: Vec<Request>) -> Vec<Request> {
    let (free, grow): (Vec<_>, Vec<_>) = requests.into_iter().partition(Request::frees);
    fail(grow, &EngineError::Full { engine: ENGINE });
    free
}

fn fail(requests: Vec<Request>, error: &EngineError) {
    for request in requests {
        request.fail(error);
    }
}

/// Makes all requests durable and answers them, or gives them back.
fn commit(store: &Store, requests: Vec<Request>) -> Result<(), (EngineError, Vec<Request>)> {
    if requests.is_empty() {
        return Ok(());
    }
    let made = store.write(|transaction| {
        let mut tables = OpenTables::begin(transaction, now_ms())?;
        let done = requests.iter().map(|request| request.apply(&mut tables));
        let done = done.collect::<Result<Vec<_>, redb::Error>>()?;
        let changed = tables.end()?;
        Ok((done, changed))
    });
    match made {
        Ok(done) => {
            for (request, done) in requests.into_iter().zip(done) {
                request.answer(done);
            }
            Ok(())
        }
        Err(error) => {
            static FAILS: LogThrottle = LogThrottle::new();
            if let Some(left_out) = FAILS.admit() {
                tracing::error!(%error, requests = requests.len(), left_out, "a commit failed");
            }
            Err((error, requests))
        }
    }
}

/// What a request has come to; told when it is durable.
enum Applied {
    Written(Result<Vec<Written>, EngineError>),
    Swept(usize),
}

impl Request {
    fn apply(&self, tables: &mut OpenTables<'_>) -> Result<Applied, redb::Error> {
        match self {
            Self::Write { batch, .. } => {
                let written = tables.apply(batch)?;
                Ok(Applied::Written(written.map_err(|(index, refused)| {
                    EngineError::Refused { index, refused }
                })))
            }
            Self::Sweep { of, limit, .. } => Ok(Applied::Swept(tables.sweep(of.as_ref(), *limit)?)),
        }
    }

    /// Whether it leaves fewer bytes than there were.
    fn frees(&self) -> bool {
        match self {
            Self::Write { batch, .. } => batch
                .iter()
                .all(|write| matches!(write.change, Change::Delete)),
            Self::Sweep { .. } => true,
        }
    }

    fn bytes(&self) -> usize {
        let Self::Write { batch, .. } = self else {
            return 0;
        };
        let values = batch.iter().map(|write| match &write.change {
            Change::Put { value, .. } => value.len(),
            Change::Delete | Change::Add { .. } => 0,
        });
        values.sum()
    }

    fn answer(self, done: Applied) {
        // Who does not wait any more has gone away; what was made stays made.
        match (self, done) {
            (Self::Write { answer, .. }, Applied::Written(written)) => drop(answer.send(written)),
            (Self::Sweep { answer, .. }, Applied::Swept(swept)) => drop(answer.send(Ok(swept))),
            // A request is answered with what it came to, by `apply`.
            (Self::Write { .. }, Applied::Swept(_)) | (Self::Sweep { .. }, Applied::Written(_)) => {
            }
        }
    }

    fn fail(self, error: &EngineError) {
        match self {
            Self::Write { answer, .. } => drop(answer.send(Err(error.clone()))),
            Self::Sweep { answer, .. } => drop(answer.send(Err(error.clone()))),
        }
    }
}
