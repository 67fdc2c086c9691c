//! How fast the embedded engine is on this machine: `cargo run --release --example embedded -- [DIR]`.
//!
//! DIR must be on a disk that forces writes; its default is the working directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use bismuth_store::records::embedded::Embedded;
use bismuth_store::records::{Change, Condition, Keyspace, Limits, RecordKey, Records, Write};
use bytes::Bytes;

const KEYS: u64 = 20_000;
const WRITERS: usize = 32;
const READERS: usize = 2;
const SPAN: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let base = std::env::args_os()
        .nth(1)
        .map_or_else(|| ".".into(), PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    let records: Arc<dyn Records> = Arc::new(Embedded::open(dir.path())?);
    for from in (0..KEYS).step_by(1000) {
        records
            .write((from..from + 1000).map(put).collect())
            .await?;
    }
    println!("{KEYS} keys of 200 bytes");
    let alone = run(1, SPAN, &records, write).await;
    println!("durable writes, 1 writer:   {alone:>8.0}/s");
    let together = run(WRITERS, SPAN, &records, write).await;
    println!("durable writes, {WRITERS} writers: {together:>8.0}/s");
    let reads = run(READERS, SPAN, &records, read).await;
    println!("reads, {READERS} readers:          {reads:>8.0}/s");
    println!(
        "get, p50:                   {:>8.2} µs",
        get_p50(&records).await.as_secs_f64() * 1e6
    );
    let reader = tokio::spawn({
        let records = Arc::clone(&records);
        async move { run(1, SPAN, &records, read).await }
    });
    let mixed = run(WRITERS, SPAN, &records, write).await;
    println!(
        "both at once:               {mixed:>8.0} writes/s, {:.0} reads/s",
        reader.await?
    );
    println!("resident:                   {:>8} KiB", resident_kib()?);
    let began = Instant::now();
    drop(records);
    Embedded::open(dir.path())?;
    println!(
        "closing and opening:        {:>8.1} ms",
        began.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}

/// Calls per second of `tasks` that do `work` one after the other.
async fn run<F>(
    tasks: usize,
    span: Duration,
    records: &Arc<dyn Records>,
    work: impl Fn(Arc<dyn Records>, u64) -> F + Copy + Send + 'static,
) -> f64
where
    F: Future<Output = ()> + Send,
{
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let running = (0..tasks).map(|task| {
        let (records, done) = (Arc::clone(records), Arc::clone(&done));
        tokio::spawn(async move {
            let mut n = task as u64;
            while began.elapsed() < span {
                n = n
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                work(Arc::clone(&records), (n >> 33) % KEYS).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    for task in running.collect::<Vec<_>>() {
        task.await.expect("no task panics");
    }
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

async fn write(records: Arc<dyn Records>, n: u64) {
    records
        .write(vec![put(n)])
        .await
        .expect("the disk has room");
}

async fn read(records: Arc<dyn Records>, n: u64) {
    let record = records
        .get(&record_key(n))
        .await
        .expect("the store can be read");
    assert!(record.is_some(), "every key was written");
}

async fn get_p50(records: &Arc<dyn Records>) -> Duration {
    let mut times = Vec::new();
    for n in 0..20_000 {
        let record_key = record_key(n * 7919 % KEYS);
        let began = Instant::now();
        let record = records
            .get(&record_key)
            .await
            .expect("the store can be read");
        times.push(began.elapsed());
        drop(record);
    }
    times.sort_unstable();
    times[times.len() / 2]
}

fn record_key(n: u64) -> RecordKey {
    RecordKey {
        group: "0197f1a0-0000-7000-8000-000000000000".into(),
        keyspace: Keyspace::Kv,
        key: format!("some/key/{n:08}"),
    }
}

fn put(n: u64) -> Write {
    Write {
        record_key: record_key(n),
        condition: Condition::Always,
        change: Change::Put {
            value: Bytes::from(vec![b'x'; 200]),
            content_type: Some("application/json".into()),
            ttl_ms: None,
            charge: 217,
        },
        limits: Limits::default(),
    }
}

fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    Ok(kib.unwrap_or_default().parse()?)
}
