//! The process that is killed: this test's binary again, with one test that does not end.
//!
//! ```text
//!   opening                 before the store is opened
//!   try ID                  before an attempt
//!   did ID REVISION…        after it: acknowledged
//!   not ID                  after it: refused, nothing was changed
//! ```
//!
//! Each line is one write to a pipe, so that what was said is said when the process is gone.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bismuth_store::blobs::{Blobs, NewBlob, PutError, Settings};
use bismuth_store::records::{Condition, EngineError, Keyspace, RecordKey, Records};
use bytes::Bytes;
use futures_util::stream;
use tokio::task::JoinSet;

use crate::plan::{self, Effect, Id, Plan};

const DIR_VARIABLE: &str = "BISMUTH_CRASH_DIR";
const SEED_VARIABLE: &str = "BISMUTH_CRASH_VICTIM_SEED";
const ROUND_VARIABLE: &str = "BISMUTH_CRASH_ROUND";
/// Bytes of a blob that come at once.
const CHUNK: usize = 48 << 10;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Opening,
    Attempted(Id),
    Acknowledged(Id, Vec<u64>),
    Refused(Id),
}

impl Line {
    /// `None` if it is the test harness that speaks.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let first = words.next()?;
        let id = words.next().and_then(|id| id.parse().ok());
        match first {
            "opening" => Some(Self::Opening),
            "try" => Some(Self::Attempted(id?)),
            "did" => {
                let revisions = words.map(str::parse).collect::<Result<_, _>>().ok()?;
                Some(Self::Acknowledged(id?, revisions))
            }
            "not" => Some(Self::Refused(id?)),
            _ => None,
        }
    }
}

/// A running victim; dropped, it is killed.
pub struct Victim {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Victim {
    pub fn start(dir: &Path, plan: Plan, round: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["victim::victim", "--exact", "--ignored", "--nocapture"])
            .env(DIR_VARIABLE, dir)
            .env(SEED_VARIABLE, plan.seed.to_string())
            .env(ROUND_VARIABLE, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the victim")?;
        let said = child.stdout.take().context("the victim has no output")?;
        let said = BufReader::new(said);
        Ok(Self { child, said })
    }

    /// What it says next; `None` when it has ended.
    pub fn next(&mut self) -> Result<Option<Line>> {
        loop {
            let mut line = String::new();
            self.said.read_line(&mut line).context("hear the victim")?;
            // Without its end it was cut off by the kill: nobody has said it.
            let Some(line) = line.strip_suffix('\n') else {
                self.child.wait().context("wait for the victim")?;
                return Ok(None);
            };
            if let Some(line) = Line::parse(line) {
                return Ok(Some(line));
            }
        }
    }

    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill the victim")
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("the victim may live on: {error}");
        }
    }
}

/// Not a test of its own.
#[test]
#[ignore = "started, and killed, by what_was_acknowledged_survives_every_crash_and_nothing_is_half_made"]
fn victim() {
    // One who runs all that is ignored does not want to wait for its end.
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else {
        return;
    };
    let number = |name| std::env::var(name).unwrap().parse().unwrap();
    let seed = number(SEED_VARIABLE);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let live = live(dir.into(), Plan { seed }, number(ROUND_VARIABLE));
    runtime.unwrap().block_on(live).unwrap();
}

async fn live(dir: PathBuf, plan: Plan, round: u64) -> Result<()> {
    // The harness has begun a line.
    print_line("")?;
    print_line("opening")?;
    let (records, blobs) = crate::open(&dir, Settings::default())?;
    let mut tasks = JoinSet::new();
    for task in 0..plan::WRITERS + plan::UPLOADERS {
        let (records, blobs) = (Arc::clone(&records), blobs.clone());
        tasks.spawn(async move {
            for number in 0.. {
                attempt(&*records, &blobs, plan, Id::new(round, task, number)).await?;
            }
            Ok(())
        });
    }
    tasks.spawn(async move {
        blobs.keep_collecting(|_| {}).await;
        Ok(())
    });
    match tasks.join_next().await {
        Some(Ok(Err(error))) => Err(error),
        other => bail!("a task ended: {other:?}"),
    }
}

async fn attempt(records: &dyn Records, blobs: &Blobs, plan: Plan, id: Id) -> Result<()> {
    let effects = plan.effects(id);
    print_line(&format!("try {id}"))?;
    let done = match effects.as_slice() {
        [(record_key, effect)] if record_key.keyspace == Keyspace::Blob => {
            change_blob(blobs, plan, id, record_key, *effect).await
        }
        _ => {
            let written = records.write(plan.batch(id, effects)).await;
            written.map(|written| written.iter().map(|it| it.revision.0).collect())
        }
    };
    match done {
        Ok(revisions) => {
            let words = revisions.iter().map(|revision| format!(" {revision}"));
            print_line(&format!("did {id}{}", words.collect::<String>()))
        }
        Err(EngineError::Refused { .. }) => print_line(&format!("not {id}")),
        Err(error) => Err(error.into()),
    }
}

async fn change_blob(
    blobs: &Blobs,
    plan: Plan,
    id: Id,
    record_key: &RecordKey,
    effect: Effect,
) -> Result<Vec<u64>, EngineError> {
    if effect == Effect::Delete {
        let deleted = blobs.delete(&record_key.group, &record_key.key, &Condition::Always);
        return deleted.await.map(|()| Vec::new());
    }
    let new = NewBlob {
        group: record_key.group.clone(),
        key: record_key.key.clone(),
        content_type: Some(plan::content_type(id)),
        ..NewBlob::default()
    };
    let content = plan.content(id, record_key);
    let chunks = content.chunks(CHUNK).map(Bytes::copy_from_slice);
    let chunks: Vec<io::Result<Bytes>> = chunks.map(Ok).collect();
    match blobs.put(new, stream::iter(chunks)).await {
        Ok(stored) => Ok(vec![stored.blob.revision.0]),
        Err(PutError::Engine(error)) => Err(error),
        // Without conditions and limits there is no reason to refuse one.
        Err(error) => Err(EngineError::broken("the store of blobs", error.to_string())),
    }
}

/// One call each, past the buffer of the standard output.
pub fn print_line(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    Ok(out.flush()?)
}
