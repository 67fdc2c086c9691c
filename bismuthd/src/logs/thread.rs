//! The thread that copies the output of all containers into their logs.
//!
//! Writing a log blocks on the disk, so it happens on a thread of its own and never on one that
//! moves requests or decides about containers.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bismuth_model::ContainerId;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::warn;

use super::copier::LogCopier;
use super::cri::decode;
use super::read::{Reader, Selection};

/// What is left in the pipes after a container's end is at most two pipe buffers.
const STOP_BOUND: Duration = Duration::from_secs(5);
/// Lines shown with a failure: what fits a terminal beside the reason.
const TAIL_LINES: usize = 10;
/// Bytes shown with a failure; with the reason they must fit a container's record.
const TAIL_BYTES: usize = 2048;

/// The log thread. Clones share it; it ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct LogThread {
    runtime: Handle,
    copiers: Arc<Mutex<HashMap<ContainerId, RunningCopier>>>,
    _alive: Arc<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct RunningCopier {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl LogThread {
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("bismuthd-logs".into())
            // Ends with an error when the last sender is dropped, which is the signal.
            .spawn(move || runtime.block_on(async move { drop(ended.await) }))?;
        Ok(Self {
            runtime: handle,
            copiers: Arc::default(),
            _alive: Arc::new(alive),
        })
    }

    fn copiers(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, RunningCopier>> {
        self.copiers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a container's output from now on, until [`LogThread::stop`].
    pub fn spawn(&self, id: ContainerId, copier: LogCopier) {
        let (stop, stopped) = oneshot::channel();
        let task = self.runtime.spawn(async move {
            if let Err(error) = copier.run(stopped).await {
                warn!(container = %id, %error, "the output of a container is no longer kept");
            }
        });
        if let Some(earlier) = self.copiers().insert(id, RunningCopier { stop, task }) {
            // Dropping its sender stops it; its FIFOs are the ones the new copier reads on.
            drop(earlier.stop);
        }
    }

    /// Takes what is left of a container's output and stops. Harmless if there is no such copier.
    pub async fn stop(&self, id: ContainerId) {
        let Some(copier) = self.copiers().remove(&id) else {
            return;
        };
        // It may have ended by itself after an error, which it has logged.
        let _ = copier.stop.send(());
        let mut task = copier.task;
        if tokio::time::timeout(STOP_BOUND, &mut task).await.is_err() {
            warn!(container = %id, "the log of a container did not end in time");
            task.abort();
        }
    }

    /// The last lines in a log, introduced by `; it printed last:`, or nothing if there are none.
    pub async fn tail(&self, log_dir: &Path) -> String {
        let dir = log_dir.to_owned();
        let read = tokio::task::spawn_blocking(move || last_lines(&dir)).await;
        match read {
            Ok(Ok(lines)) if !lines.is_empty() => format!("; it printed last:\n{lines}"),
            Ok(Err(error)) => {
                warn!(dir = %log_dir.display(), %error, "cannot read the end of a log");
                String::new()
            }
            _ => String::new(),
        }
    }
}

fn last_lines(dir: &Path) -> io::Result<String> {
    let selection = Selection {
        tail: Some(TAIL_LINES),
        since: None,
    };
    let mut reader = Reader::open(dir, selection)?;
    let mut text = String::new();
    while let Some(records) = reader.next_records()? {
        for record in records.split(|b| *b == b'\n').filter_map(decode) {
            text.push_str(&String::from_utf8_lossy(record.content));
            text.push('\n');
        }
    }
    let start = text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES));
    Ok(text[start..].trim_end().to_owned())
}
