//! Many reads, pipelined.

use std::pin::pin;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};

use super::hub::Hub;
use super::request::{Verdict, disconnected, judge, versioned};
use super::zk;
use crate::error::{Cause, Error, Result};
use crate::path;
use crate::tree::Versioned;

/// How many reads [`ZkTree::get_many`] has under way at once. A round trip on one machine is some 100 µs and a
/// read costs the server some 10 µs, so a few dozen would keep it busy; the rest is for a network in between.
const READS_IN_FLIGHT: usize = 256;

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

    /// Asks for all that is missing, over this connection, and takes what comes. Each answer has `patience` from
    /// the one before. The error is why it ended early.
    async fn pass(&mut self, client: &zk::Client, patience: Duration) -> Result<(), Cause> {
        let paths = self.paths;
        let requests = self.missing().into_iter().map(|index| {
            // The library sends a request when its future is made, which is when it gets its place in the window.
            let request = client.get_data(&paths[index]);
            async move { (index, request.await) }
        });
        let mut answers = pin!(stream::iter(requests).buffered(READS_IN_FLIGHT));
        let mut lost = pin!(disconnected(client));
        let mut patience_ends = pin!(sleep(patience));
        loop {
            let (index, answer) = tokio::select! {
                biased;
                next = answers.next() => match next {
                    Some(answer) => answer,
                    None => return Ok(()),
                },
                state = &mut lost => return Err(format!("the session is now {state}").into()),
                () = &mut patience_ends => return Err("no answer came in time".into()),
            };
            let path = &paths[index];
            let result = match answer {
                Ok((data, stat)) => Ok(versioned(client, data, stat)),
                Err(error) => match judge("get", path, error) {
                    Verdict::Answer(error) => Err(error),
                    Verdict::Odd(source) => Err(Error::Refused {
                        act: "get",
                        path: path.clone(),
                        source,
                    }),
                    Verdict::Lost(source) => return Err(source),
                },
            };
            self.results[index] = Some(result);
            patience_ends.as_mut().reset(Instant::now() + patience);
        }
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

impl Hub {
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
                Err(_) => return loading.finish(&self.trouble()),
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
