//! Logs over HTTP: `GET /logs/{container}?tail=N&since=TIME&follow=true`.
//!
//! The answer is the CRI records as they are in the files, `text/plain`. Following ends when the
//! client goes, or the log is removed. Files are read on a blocking thread which is never more than
//! a few blocks ahead of its client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bismuth_http::{Body, BodyError, Problem};
use bismuth_model::ContainerId;
use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::cri::parse_since;
use super::read::{Reader, Selection};
use crate::invoke::problems::problem;

/// Blocks of 64 KiB that may wait for a slow client.
const BLOCKS_AHEAD: usize = 4;
/// How soon a follower sees what was printed.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// Each reader holds a thread; tokio has 512 for blocking work.
const MAX_READERS: usize = 128;

/// Where the logs of this node are, and how many may be read at a time. Clones share the bound.
#[derive(Clone, Debug)]
pub struct LogDirs {
    logs: PathBuf,
    readers: Arc<Semaphore>,
}

impl LogDirs {
    /// Logs below `logs`, one directory per container.
    pub fn new(logs: PathBuf) -> Self {
        Self {
            logs,
            readers: Arc::new(Semaphore::new(MAX_READERS)),
        }
    }
}

/// The query string of a request for a log.
#[derive(Debug, Default)]
struct LogQuery {
    selection: Selection,
    follow: bool,
}

/// Answers with the log of a container.
pub fn answer(
    dirs: &LogDirs,
    id: ContainerId,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = parse(query.unwrap_or(""), SystemTime::now())
        .map_err(|detail| problem(StatusCode::BAD_REQUEST, "malformed_query", detail))?;
    let dir = dirs.logs.join(id.to_string());
    if !dir.is_dir() {
        return Err(problem(
            StatusCode::NOT_FOUND,
            "no_log",
            format!("there is no log of container {id} on this node"),
        ));
    }
    let Ok(permit) = Arc::clone(&dirs.readers).try_acquire_owned() else {
        let detail = format!("{MAX_READERS} logs are being read already");
        return Err(problem(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_log_readers",
            detail,
        )
        .retry_after(5));
    };
    let (blocks, mut receiver) = mpsc::channel(BLOCKS_AHEAD);
    // Ends when the receiver is dropped; the permit goes with it.
    tokio::task::spawn_blocking(move || read(dir, &query, &blocks, permit));
    let blocks = stream::poll_fn(move |context| receiver.poll_recv(context));
    let frames = blocks.map_ok(Frame::data);
    let frames = frames.map_err(|error| BodyError::Source(Box::new(error)));
    let mut response = Response::new(Body::wrap(StreamBody::new(frames)));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    Ok(response)
}

fn parse(text: &str, now: SystemTime) -> Result<LogQuery, String> {
    let mut query = LogQuery::default();
    for pair in text.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "tail" if value == "all" => query.selection.tail = None,
            "tail" => {
                let lines = value.parse();
                let lines = lines.map_err(|_| format!("tail: {value:?} is not a number of lines"));
                query.selection.tail = Some(lines?);
            }
            "since" => {
                let since = parse_since(&value.replace("%3A", ":").replace("%3a", ":"), now);
                query.selection.since = Some(since.ok_or_else(|| {
                    format!("since: {value:?} is neither an RFC 3339 time, nor seconds since 1970, nor a duration such as 10m")
                })?);
            }
            "follow" => {
                query.follow = match value {
                    "" | "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(format!("follow: {value:?} is neither true nor false")),
                }
            }
            _ => return Err(format!("{name}: unknown, expected tail, since or follow")),
        }
    }
    Ok(query)
}

fn read(
    dir: PathBuf,
    query: &LogQuery,
    blocks: &mpsc::Sender<std::io::Result<Bytes>>,
    _permit: OwnedSemaphorePermit,
) {
    let mut reader = match Reader::open(&dir, query.selection) {
        Ok(reader) => reader,
        // The client may be gone; then nobody wants to know.
        Err(error) => return drop(blocks.blocking_send(Err(error))),
    };
    loop {
        match reader.next_records() {
            Ok(Some(records)) => {
                if blocks.blocking_send(Ok(Bytes::from(records))).is_err() {
                    return;
                }
            }
            Ok(None) if query.follow && dir.is_dir() && !blocks.is_closed() => {
                std::thread::sleep(FOLLOW_INTERVAL)
            }
            Ok(None) => return,
            Err(error) => return drop(blocks.blocking_send(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_understood_or_refused_by_name() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let all = parse("tail=5&since=10s&follow=true", now).unwrap();
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(990);
        assert_eq!(all.selection.tail, Some(5));
        assert_eq!(all.selection.since, Some(since));
        assert!(all.follow);
        assert!(!parse("", now).unwrap().follow);
        for (bad, field) in [
            ("tail=x", "tail"),
            ("since=x", "since"),
            ("follow=x", "follow"),
            ("lines=1", "lines"),
        ] {
            assert!(parse(bad, now).unwrap_err().starts_with(field));
        }
    }
}
