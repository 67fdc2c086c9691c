//! Crash consistency of the embedded engines: their process is killed again and again.
//!
//! ```text
//!   victim (this binary again) ── attempts, acknowledgements ──► model      SIGKILL at a random one of them, or while the store is opened
//!   store on disk ── opened here ─► examined ─► collected ─────► model      is everything there that was acknowledged, and nothing else?
//!        └─ the next victim goes on with it, eight times; then a new store
//! ```
//!
//! What is attempted and when it is killed follows from a seed, which is printed; `CRASH_SEED` repeats it, but not how the threads take turns.
//! A killed process does not take the kernel's cache with it: that what is acknowledged was forced to disk is shown in `forced.rs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod examine;
mod forced;
mod model;
mod plan;
mod victim;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bismuth_store::blobs::{Blobs, Settings};
use bismuth_store::objects::files::Files;
use bismuth_store::records::Records;
use bismuth_store::records::embedded::Embedded;
use fastrand::Rng;
use tokio::runtime::Runtime;

use self::model::Model;
use self::plan::Plan;
use self::victim::{Line, Victim};

const KILLS: usize = 200;
/// A store sees so many of them: it is small when it is new and has some history when it goes.
const KILLS_OF_A_STORE: usize = 8;
/// Some commits of all writers.
const MOST_LINES: u32 = 400;
/// A new store is opened in some milliseconds, an old one in one; a busy disk takes longer, so that the times are drawn with most of them short.
const LONGEST_OPENING: Duration = Duration::from_millis(25);
const SEED_VARIABLE: &str = "CRASH_SEED";

/// Opens the records and the blobs in a directory.
fn open(dir: &Path, settings: Settings) -> Result<(Arc<dyn Records>, Blobs)> {
    let records: Arc<dyn Records> = Arc::new(Embedded::open(&dir.join("records"))?);
    let objects = Arc::new(Files::open(&dir.join("objects"))?);
    let blobs = Blobs::new(Arc::clone(&records), objects, settings);
    Ok((records, blobs))
}

/// When the victim is killed.
#[derive(Clone, Copy, Debug)]
enum KillMoment {
    /// So long after it began to open the store.
    Opening(Duration),
    /// At this attempt, most likely within a commit.
    Attempted(u32),
    /// At this acknowledgement.
    Acknowledged(u32),
}

impl KillMoment {
    fn random(rng: &mut Rng) -> Self {
        match rng.u8(..10) {
            0..3 => Self::Opening(LONGEST_OPENING.mul_f64(rng.f64().powi(3))),
            3..6 => Self::Attempted(rng.u32(1..=MOST_LINES)),
            _ => Self::Acknowledged(rng.u32(1..=MOST_LINES)),
        }
    }

    /// Whether it has come with this line.
    fn has_come_with(&mut self, line: &Line) -> bool {
        let left = match (self, line) {
            (Self::Opening(life), Line::Opening) => {
                let began = Instant::now();
                while began.elapsed() < *life {
                    std::hint::spin_loop();
                }
                return true;
            }
            (Self::Attempted(left), Line::Attempted(_))
            | (Self::Acknowledged(left), Line::Acknowledged(..)) => left,
            _ => return false,
        };
        *left = left.saturating_sub(1);
        *left == 0
    }
}

#[test]
fn what_was_acknowledged_survives_every_crash_and_nothing_is_half_made() {
    let given = std::env::var(SEED_VARIABLE).ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("{SEED_VARIABLE}={seed}");
    let mut rng = Rng::with_seed(seed);
    let runtime = Runtime::new().unwrap();
    let mut sum = model::Tally::default();
    for first in (0..KILLS).step_by(KILLS_OF_A_STORE) {
        let moments =
            (0..KILLS_OF_A_STORE.min(KILLS - first)).map(|_| KillMoment::random(&mut rng));
        let moments: Vec<_> = moments.collect();
        let mut dir = tempfile::tempdir().unwrap();
        let mut model = Model::new(Plan { seed });
        if let Err(error) = run_store(&runtime, dir.path(), &mut model, first, &moments) {
            dir.disable_cleanup(true);
            let dir = dir.path().display();
            panic!("{error:#}; {SEED_VARIABLE}={seed}, the store is kept in {dir}");
        }
        sum += model.tally;
    }
    println!("{KILLS} kills: {sum}");
    ensure_kills_hit_work(&sum).unwrap();
}

fn run_store(
    runtime: &Runtime,
    dir: &Path,
    model: &mut Model,
    first: usize,
    moments: &[KillMoment],
) -> Result<()> {
    for (number, &moment) in moments.iter().enumerate() {
        let round = first + number;
        let context = || format!("kill {round}, at {moment:?}");
        kill_once(dir, model, round, moment).with_context(context)?;
        // A store that is killed while it recovers is looked at only afterwards: here it would recover in peace.
        if matches!(moments.get(number + 1), Some(KillMoment::Opening(_))) {
            continue;
        }
        let examined = runtime.block_on(examine::examine(dir, model));
        examined.with_context(context)?;
    }
    Ok(())
}

fn kill_once(dir: &Path, model: &mut Model, round: usize, mut moment: KillMoment) -> Result<()> {
    let mut victim = Victim::start(dir, model.plan, round)?;
    let mut killed = false;
    // What it said before its death is heard to the end.
    while let Some(line) = victim.next()? {
        if !killed && moment.has_come_with(&line) {
            victim.kill()?;
            killed = true;
        }
        model
            .record_line(&line)
            .with_context(|| format!("{line:?}"))?;
    }
    ensure!(killed, "the victim ended by itself");
    Ok(())
}

/// Kills that meet nothing on its way, or a store that never gets anywhere, would prove nothing.
fn ensure_kills_hit_work(sum: &model::Tally) -> Result<()> {
    ensure!(
        sum.acknowledged > 10 * KILLS,
        "little was acknowledged: {sum}"
    );
    ensure!(
        sum.open > 2 * KILLS,
        "little was on its way when it was killed: {sum}"
    );
    ensure!(
        sum.made > 0,
        "nothing was made that was not acknowledged: {sum}"
    );
    Ok(())
}
