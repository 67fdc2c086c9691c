//! Shared by the stories: definitions of functions, a body reader, a raw connection.

// Each story is a crate of its own and uses its part of this.
#![allow(dead_code)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bismuth_testkit::Cluster;
use bismuth_testkit::http::{self as client, Body};
use bytes::Bytes;
use futures_util::stream;
use http::Response;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Whatever is awaited happens within milliseconds; a loaded machine may take longer.
pub const SOON: Duration = Duration::from_secs(30);

/// Waits for `what`, at most [`SOON`].
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> Result<T> {
    let within = tokio::time::timeout(SOON, work).await;
    within.with_context(|| format!("{what}: not within {SOON:?}"))
}

/// The test server with these arguments, asked on port 8000.
pub fn server(args: &[&str]) -> Value {
    let argv: Vec<&str> = [&["/echo-server"], args].concat();
    json!({ "image": "docker.io/library/echo-server:latest", "invoke_mode": { "Server": [argv, 8000] } })
}

/// The test server as it is.
pub fn echo_server() -> Value {
    server(&[])
}

/// A program of the small Linux, once per request.
pub fn exec(argv: &[&str]) -> Value {
    json!({ "image": "docker.io/library/alpine:latest", "invoke_mode": { "Executable": argv } })
}

/// A shell script, once per request.
pub fn script(lines: &str) -> Value {
    exec(&["/bin/sh", "-c", lines])
}

/// A cluster with a function in it.
pub struct Deployed {
    pub cluster: Cluster,
    pub id: String,
}

impl Deployed {
    pub async fn start(definition: &Value) -> Result<Self> {
        let cluster = Cluster::start().await?;
        let id = cluster.deploy(definition).await?;
        Ok(Self { cluster, id })
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/invoke/{}{rest}", self.id)
    }

    pub fn url(&self, rest: &str) -> String {
        self.cluster.frontend_url(&self.path(rest))
    }

    pub async fn connect(&self) -> Result<RawConnection> {
        RawConnection::connect(&self.cluster.frontend_url("/")).await
    }
}

/// The definition with these fields set.
pub fn with(mut definition: Value, fields: &Value) -> Value {
    if let (Some(definition), Some(fields)) = (definition.as_object_mut(), fields.as_object()) {
        definition.extend(fields.clone());
    }
    definition
}

/// The body as text, for messages and comparisons.
pub fn text(answer: &Response<Bytes>) -> String {
    String::from_utf8_lossy(answer.body()).into_owned()
}

/// All of an answer, for messages.
pub fn shown(answer: &Response<Bytes>) -> String {
    format!(
        "{} {:?} {}",
        answer.status(),
        answer.headers(),
        text(answer)
    )
}

/// The body of an answer that must be 200.
pub fn ok(answer: &Response<Bytes>) -> Result<String> {
    ensure!(answer.status() == 200, "{}", shown(answer));
    Ok(text(answer))
}

/// A header as text; empty if there is none.
pub fn header<'a, B>(answer: &'a Response<B>, name: &str) -> &'a str {
    let value = answer.headers().get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// An error of ours: `application/problem+json` with this status and code, marked as ours. Returns its members.
pub fn problem(answer: &Response<Bytes>, status: u16, code: &str) -> Result<Value> {
    let shown = || shown(answer);
    ensure!(answer.status() == status, "not {status}: {}", shown());
    let kind = header(answer, CONTENT_TYPE.as_str());
    ensure!(
        kind == "application/problem+json",
        "no problem: {}",
        shown()
    );
    let marked = header(answer, "x-bismuth-error");
    ensure!(marked == code, "not {code}: {}", shown());
    let problem: Value = serde_json::from_slice(answer.body()).with_context(shown)?;
    let repeats = problem["code"] == code && problem["status"] == status;
    ensure!(repeats && problem["retryable"].is_boolean(), "{}", shown());
    for member in ["component", "detail", "request_id"] {
        let text = problem[member].as_str().unwrap_or_default();
        ensure!(!text.is_empty(), "no {member}: {}", shown());
    }
    Ok(problem)
}

/// As [`problem`], with these words in its detail.
pub fn problem_with(
    answer: &Response<Bytes>,
    status: u16,
    code: &str,
    words: &str,
) -> Result<Value> {
    let problem = problem(answer, status, code)?;
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains(words), "no {words:?}: {problem}");
    Ok(problem)
}

/// A request body that is sent piece by piece, when the test says so. Dropping the sender ends it.
pub fn channel_body() -> (mpsc::UnboundedSender<Bytes>, Body) {
    let (pieces, receiver) = mpsc::unbounded_channel();
    let frames = stream::unfold(
        receiver,
        |mut receiver: mpsc::UnboundedReceiver<Bytes>| async {
            Some((Ok(Frame::data(receiver.recv().await?)), receiver))
        },
    );
    (pieces, StreamBody::new(frames).boxed_unsync())
}

/// An answer's body, read as far as a test wants.
pub struct BodyReader {
    body: Incoming,
    unread: Vec<u8>,
    pub trailers: http::HeaderMap,
}

impl BodyReader {
    pub fn new(answer: Response<Incoming>) -> Self {
        Self {
            body: answer.into_body(),
            unread: Vec::new(),
            trailers: http::HeaderMap::new(),
        }
    }

    /// The text up to and with `end`; fails if the body ends before.
    pub async fn until(&mut self, end: &str) -> Result<String> {
        soon(&format!("something that ends in {end:?}"), async {
            loop {
                let found = self
                    .unread
                    .windows(end.len())
                    .position(|window| window == end.as_bytes());
                if let Some(at) = found {
                    let piece: Vec<u8> = self.unread.drain(..at + end.len()).collect();
                    return Ok(String::from_utf8(piece)?);
                }
                let more = self.more().await?;
                ensure!(
                    more,
                    "the body ended after {:?}",
                    String::from_utf8_lossy(&self.unread)
                );
            }
        })
        .await?
    }

    /// The next server-sent event that is more than a comment.
    pub async fn event(&mut self) -> Result<String> {
        loop {
            let event = self.until("\n\n").await?;
            if !event.starts_with(':') {
                return Ok(event);
            }
        }
    }

    /// What is left of the body; trailers are kept.
    pub async fn rest(&mut self) -> Result<String> {
        soon("the body's end", async {
            while self.more().await? {}
            Ok(String::from_utf8(std::mem::take(&mut self.unread))?)
        })
        .await?
    }

    async fn more(&mut self) -> Result<bool> {
        let Some(frame) = self.body.frame().await else {
            return Ok(false);
        };
        match frame.context("read the answer's body")?.into_data() {
            Ok(data) => self.unread.extend_from_slice(&data),
            Err(frame) => self
                .trailers
                .extend(frame.into_trailers().unwrap_or_default()),
        }
        Ok(true)
    }
}

/// A TCP connection on which a test reads and writes its own bytes.
pub struct RawConnection(BufReader<TcpStream>);

impl RawConnection {
    /// Connects to the host of `url`.
    pub async fn connect(url: &str) -> Result<Self> {
        let uri: http::Uri = url.parse()?;
        let address = uri.authority().context("no host")?.as_str();
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        soon("bytes are taken", self.0.write_all(bytes.as_ref()))
            .await?
            .context("write")
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) -> Result<()> {
        self.0
            .get_mut()
            .shutdown()
            .await
            .context("shut the sending side down")
    }

    /// Closes the connection by a reset. A mere end of the sending side, this soon after a request, would say that
    /// nothing more comes and the answer is still wanted.
    pub fn reset(self) -> Result<()> {
        self.0
            .into_inner()
            .set_zero_linger()
            .context("close by a reset")
    }

    /// The next head, in lower case, with the empty line.
    pub async fn head(&mut self) -> Result<String> {
        let mut head = Vec::new();
        soon("a head", async {
            while !head.ends_with(b"\r\n\r\n") {
                head.push(
                    self.0
                        .read_u8()
                        .await
                        .with_context(|| format!("after {:?}", String::from_utf8_lossy(&head)))?,
                );
            }
            anyhow::Ok(())
        })
        .await??;
        Ok(String::from_utf8_lossy(&head).to_lowercase())
    }

    /// The next `count` bytes.
    pub async fn exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        soon("bytes", self.0.read_exact(&mut bytes))
            .await?
            .with_context(|| format!("read {count} bytes"))?;
        Ok(bytes)
    }

    /// Everything until the other side closes. A reset is a way of closing.
    pub async fn rest(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        match soon("the connection's end", self.0.read_to_end(&mut bytes)).await? {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                Err(error).context("read to the end")
            }
            _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

/// Processes of this machine that have this in their environment, such as `NAME=value`.
pub fn processes_with(variable: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |pid: &u32| {
        // A process may end while it is looked at.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == variable.as_bytes())
    };
    pids.filter(has).collect()
}

/// `GET` with headers, and the whole answer.
pub async fn get_with(url: &str, headers: &[(&str, &str)]) -> Result<Response<Bytes>> {
    let request = headers
        .iter()
        .fold(http::Request::get(url), |request, (name, value)| {
            request.header(*name, *value)
        });
    client::send_whole(request.body(client::full(Bytes::new()))?).await
}
