//! Bulk reads: batches of nodes per multi-read request, requests pipelined.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};

use super::client::ZkClient;
use super::request::{ErrorClass, classify, disconnected, versioned};
use super::zk;
use crate::error::{Cause, Error, Result};
use crate::path;
use crate::tree::Versioned;

/// How many nodes one request reads. Each request costs the server and both ends of the connection tens of
/// microseconds whatever it asks for, and nearly all of that is gone with 32 in one. The answer stays within
/// 2 MiB even if each of them is as large as a node may be.
const NODES_PER_REQUEST: usize = 32;

/// How many requests are under way at once: enough to hide a round trip, little enough that other calls on this
/// connection do not wait behind a whole load.
const REQUESTS_IN_FLIGHT: usize = 8;

/// What [`Tree::get_many`] has and has not yet.
struct Loading<'a> {
    paths: &'a [String],
    results: Vec<Option<Result<Versioned>>>,
}

impl<'a> Loading<'a> {
    fn new(paths: &'a [String]) -> Self {
        let results = paths
            .iter()
            .map(|path| path::validate(path).err().map(Err))
            .collect();
        Self { paths, results }
    }

    fn missing(&self) -> Vec<usize> {
        (0..self.paths.len())
            .filter(|&index| self.results[index].is_none())
            .collect()
    }

    /// Asks for all that is missing, over this connection, and takes what comes. Each answer has `answer_timeout` from
    /// the one before. The error is why it ended early.
    async fn pass(&mut self, client: &zk::Client, answer_timeout: Duration) -> Result<(), Cause> {
        let paths = self.paths;
        let missing = self.missing();
        let batches: Vec<Vec<usize>> = missing
            .chunks(NODES_PER_REQUEST)
            .map(<[usize]>::to_vec)
            .collect();
        // A request is sent when its future is made, which is when it gets its place in the window.
        let requests = batches.into_iter().map(|batch| ask(client, paths, batch));
        let mut answers = pin!(stream::iter(requests).buffered(REQUESTS_IN_FLIGHT));
        let mut lost = pin!(disconnected(client));
        let mut answer_timeout_ends = pin!(sleep(answer_timeout));
        loop {
            let (batch, answer) = tokio::select! {
                biased;
                next = answers.next() => match next {
                    Some(answer) => answer,
                    None => return Ok(()),
                },
                state = &mut lost => return Err(format!("the session is now {state}").into()),
                () = &mut answer_timeout_ends => return Err("no answer came in time".into()),
            };
            self.take(client, &batch, answer)?;
            answer_timeout_ends
                .as_mut()
                .reset(Instant::now() + answer_timeout);
        }
    }

    /// Puts the answer to one request in its places. An error says that there was none.
    fn take(&mut self, client: &zk::Client, batch: &[usize], answer: Answer) -> Result<(), Cause> {
        let nodes = match answer {
            Ok(nodes) if nodes.len() == batch.len() => nodes,
            Ok(nodes) => {
                let why = format!(
                    "{} nodes were asked for and {} answered",
                    batch.len(),
                    nodes.len()
                );
                batch
                    .iter()
                    .for_each(|&index| self.refuse(index, why.clone().into()));
                return Ok(());
            }
            Err(error) => return self.take_failure(batch, error),
        };
        for (&index, node) in batch.iter().zip(nodes) {
            match node {
                zk::MultiReadResult::Data { data, stat } => {
                    self.results[index] = Some(Ok(versioned(client, data, stat)));
                }
                zk::MultiReadResult::Error { err } => self.take_failure(&[index], err)?,
                other => self.refuse(index, format!("it was answered with {other:?}").into()),
            }
        }
        Ok(())
    }

    fn take_failure(&mut self, batch: &[usize], error: zk::Error) -> Result<(), Cause> {
        for &index in batch {
            match classify("get", &self.paths[index], error.clone()) {
                ErrorClass::Answer(error) => self.results[index] = Some(Err(error)),
                ErrorClass::Unexpected(source) => self.refuse(index, source),
                ErrorClass::Lost(source) => return Err(source),
            }
        }
        Ok(())
    }

    fn refuse(&mut self, index: usize, source: Cause) {
        let path = self.paths[index].clone();
        self.results[index] = Some(Err(Error::Refused {
            act: "get",
            path,
            source,
        }));
    }

    /// The results; what is missing failed for this reason.
    fn finish(self, why: &str) -> Vec<Result<Versioned>> {
        let unavailable = |path: &String| Error::Unavailable {
            act: "get",
            path: path.clone(),
            source: why.to_owned().into(),
        };
        let pairs = self.results.into_iter().zip(self.paths);
        pairs
            .map(|(result, path)| result.unwrap_or_else(|| Err(unavailable(path))))
            .collect()
    }
}

type Answer = Result<Vec<zk::MultiReadResult>, zk::Error>;

/// Sends one request for these nodes. (Borrows nothing but the client.)
fn ask<'c>(
    client: &'c zk::Client,
    paths: &[String],
    batch: Vec<usize>,
) -> impl Future<Output = (Vec<usize>, Answer)> + use<'c> {
    let mut reader = client.new_multi_reader();
    let added = batch
        .iter()
        .try_for_each(|&index| reader.add_get_data(&paths[index]));
    let request = added.map(|()| reader.commit());
    async move {
        let answer = match request {
            Ok(request) => request.await,
            Err(error) => Err(error),
        };
        (batch, answer)
    }
}

impl ZkClient {
    /// Passes over what is missing until nothing is, or until one ends without progress and without time left.
    pub(super) async fn load(&self, paths: &[String]) -> Vec<Result<Versioned>> {
        let mut loading = Loading::new(paths);
        let mut deadline = Instant::now() + self.options.timeout;
        loop {
            let missing = loading.missing();
            let Some(&first) = missing.first() else {
                return loading.finish("");
            };
            let client = match self.connected("get", &paths[first]).await {
                Ok(client) => client,
                Err(_) => return loading.finish(&self.disconnect_reason()),
            };
            let Err(why) = loading.pass(&client, self.options.timeout).await else {
                continue;
            };
            if loading.missing().len() < missing.len() {
                deadline = Instant::now() + self.options.timeout;
            } else if Instant::now() >= deadline {
                return loading.finish(&why.to_string());
            }
        }
    }
}
