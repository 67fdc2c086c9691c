//! A load generator: sends at a steady rate and records the outcome of each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bismuth_testkit::{eventually, http as client};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::{SOON, retryable};

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200 from the function.
    Answered,
    /// A problem of ours that says "try again", with its code.
    Retryable(String),
    /// Anything else.
    Other(String),
}

/// One request.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    pub method: Method,
    pub sent: Instant,
    pub ended: Instant,
    pub outcome: Outcome,
}

/// A running client. GET and POST take turns, each on a connection of its own.
pub struct LoadGenerator {
    stop: oneshot::Sender<()>,
    ended: Arc<AtomicUsize>,
    task: JoinHandle<Result<Vec<RequestRecord>>>,
}

impl LoadGenerator {
    /// Sends `per_second` requests to `url` until it is stopped. A late tick is made up for, so the pace holds.
    pub fn start(url: String, per_second: u32) -> Self {
        let (stop, stopped) = oneshot::channel();
        let ended = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(send_at_rate(url, per_second, stopped, Arc::clone(&ended)));
        Self { stop, ended, task }
    }

    /// Waits until `count` more requests have ended.
    pub async fn more(&self, count: usize) {
        let target = self.ended.load(Ordering::Relaxed) + count;
        eventually("requests end", SOON, async || {
            let ended = self.ended.load(Ordering::Relaxed);
            ensure!(ended >= target, "{ended} of {target}");
            Ok(())
        })
        .await;
    }

    /// Sends no more, waits for what is in flight, and returns every request in the order of sending.
    pub async fn stop(self) -> Result<Vec<RequestRecord>> {
        // It may have failed before, and says so next.
        let _ = self.stop.send(());
        self.task.await.context("the client")?
    }
}

async fn send_at_rate(
    url: String,
    per_second: u32,
    mut stopped: oneshot::Receiver<()>,
    ended: Arc<AtomicUsize>,
) -> Result<Vec<RequestRecord>> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut in_flight = JoinSet::new();
    let mut methods = [Method::GET, Method::POST].into_iter().cycle();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut stopped => break,
        }
        let (url, ended) = (url.clone(), Arc::clone(&ended));
        let method = methods.next().context("there is always another method")?;
        in_flight.spawn(async move {
            let record = send_recorded(&url, method).await;
            ended.fetch_add(1, Ordering::Relaxed);
            record
        });
    }
    let mut records = in_flight.join_all().await;
    records.sort_by_key(|record| record.sent);
    Ok(records)
}

/// Sends one request and sees what becomes of it.
pub async fn send_recorded(url: &str, method: Method) -> RequestRecord {
    let sent = Instant::now();
    let outcome = match exchange(url, &method).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Other(format!("{error:#}")),
    };
    RequestRecord {
        method,
        sent,
        ended: Instant::now(),
        outcome,
    }
}

async fn exchange(url: &str, method: &Method) -> Result<Outcome> {
    let request = Request::builder()
        .method(method)
        .uri(url)
        .body(client::full(Bytes::new()))?;
    let answer = client::send_whole(request).await?;
    if answer.status() == StatusCode::OK {
        return Ok(Outcome::Answered);
    }
    Ok(match retryable(&answer) {
        Ok(code) => Outcome::Retryable(code),
        Err(error) => Outcome::Other(format!("{error:#}")),
    })
}
