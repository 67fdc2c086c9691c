//! What a secret costs in a group of few and in one of as many as it may have: every read and every change opens the group's manifest,
//! and every change seals and stores it anew.
//!
//! `cargo run --release -p bismuth-store --example full_group`
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bismuth_store::Key;
use bismuth_store::records::embedded::Embedded;
use bismuth_store::secrets::{Keyring, MAX_SECRETS, Secrets};

/// Of each, at each size.
const RUNS: usize = 300;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let records = Embedded::open(&dir.path().join("records")).unwrap();
    let keyring = Keyring::load_or_create(&dir.path().join("master.keys")).unwrap();
    let secrets = Secrets::new(Arc::new(records), keyring);
    let mut count = 0;
    for size in [1, 100, 300, MAX_SECRETS] {
        let begun = Instant::now();
        for n in count..size {
            let name: Key = format!("secret-{n}").parse().unwrap();
            secrets.set("group", &name, b"value").await.unwrap();
        }
        let filled = begun.elapsed();
        count = size;
        let name: Key = "secret-0".parse().unwrap();
        let read = least(async || {
            secrets.get("group", "secret-0", None).await.unwrap();
        });
        let read = read.await;
        let change = least(async || {
            secrets.set("group", &name, b"another").await.unwrap();
        });
        let change = change.await;
        println!(
            "{size:5} secrets: filled in {filled:.1?}, a read {read:.1?}, a change {change:.1?}"
        );
    }
}

/// The least that it takes: what is more is what else the machine does.
async fn least(work: impl AsyncFn()) -> Duration {
    let mut least = Duration::MAX;
    for _ in 0..RUNS {
        let begun = Instant::now();
        work().await;
        least = least.min(begun.elapsed());
    }
    least
}
