//! The client of the operator API: one connection for each call.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bismuth_model::ServiceGroup;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, RETRY_AFTER};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::call::Call;
use crate::error::{CallError, Refusal};
use crate::response::{Purged, json};
use crate::timeout::{IDLE_TIMEOUT, LONG_RUNNING_TIMEOUT, Progress, ResponseBody, TrackedBody};
use crate::token::read_token;

/// Problems of ours are small.
const PROBLEM_BYTES: usize = 64 * 1024;

/// Where svcprovider is, and what proves that an operator asks.
#[derive(Clone, Debug)]
pub struct OperatorClient {
    authority: Authority,
    token_file: PathBuf,
    connect: Duration,
    idle_timeout: Duration,
    long_running_timeout: Duration,
}

impl OperatorClient {
    /// A client for a URL such as `http://127.0.0.1:9001`; `connect` bounds the time until a connection is made.
    ///
    /// # Errors
    /// [`CallError::Url`].
    pub fn new(url: &Uri, token_file: PathBuf, connect: Duration) -> Result<Self, CallError> {
        let http = url.scheme().is_none_or(|scheme| *scheme == Scheme::HTTP);
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        match url.authority() {
            Some(authority) if http && bare && !authority.as_str().contains('@') => Ok(Self {
                authority: authority.clone(),
                token_file,
                connect,
                idle_timeout: IDLE_TIMEOUT,
                long_running_timeout: LONG_RUNNING_TIMEOUT,
            }),
            _ => Err(CallError::Url { url: url.clone() }),
        }
    }

    /// The same, which takes it for gone when it lets nothing go on for so long: neither takes bytes nor sends any.
    #[must_use]
    pub fn with_idle_timeout(mut self, bound: Duration) -> Self {
        (self.idle_timeout, self.long_running_timeout) = (bound, bound);
        self
    }

    /// Asks, and returns the answer as soon as its head is there. The token is read anew. A refusal is an error.
    ///
    /// # Errors
    /// [`CallError`] says whose fault it is, and whether something may have been done.
    pub async fn call<B>(&self, call: Call, body: B) -> Result<Response<ResponseBody>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let token = read_token(&self.token_file).await?;
        let bound = if call.is_long_running {
            self.long_running_timeout
        } else {
            self.idle_timeout
        };
        let progress = Progress::new();
        let request = self.request(call, token, TrackedBody::new(body, progress.clone()))?;
        let stream = self.connect().await?;
        let failed = |source| CallError::Exchange {
            address: self.address(),
            source,
        };
        let io = TokioIo::new(EarlyResponseStream {
            stream,
            write_closed: false,
            progress: progress.clone(),
        });
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(failed)?;
        // Ends with the exchange.
        let connection = tokio::spawn(connection);
        progress.moved();
        let response = tokio::select! {
            answered = sender.send_request(request) => answered.map_err(failed)?,
            () = progress.stalled(bound) => {
                connection.abort();
                return Err(CallError::Stalled { address: self.address(), bound });
            }
        };
        let response =
            response.map(|body| ResponseBody::new(body, self.address(), self.idle_timeout));
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// Asks without a body.
    ///
    /// # Errors
    /// As [`OperatorClient::call`].
    pub async fn ask(&self, call: Call) -> Result<Response<ResponseBody>, CallError> {
        self.call(call, Empty::<Bytes>::new()).await
    }

    /// Whether svcprovider is there, accepts the token and has its engines. No group is looked at: one whose data is broken is what a purge
    /// mends.
    ///
    /// # Errors
    /// As [`OperatorClient::call`].
    pub async fn probe(&self) -> Result<(), CallError> {
        self.ask(Call::new(Method::GET, "/")).await.map(drop)
    }

    /// Deletes all that a group has.
    ///
    /// # Errors
    /// As [`OperatorClient::call`].
    pub async fn purge(&self, group: &ServiceGroup) -> Result<Purged, CallError> {
        let response = self.ask(Call::purge(group)).await?;
        json(self, response).await
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.authority.to_string()
    }

    fn request<B>(&self, call: Call, token: HeaderValue, body: B) -> Result<Request<B>, CallError> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(&call.target)
            .body(body)
            .map_err(|source| CallError::Target {
                target: call.target,
                source,
            })?;
        let headers = request.headers_mut();
        headers.extend(call.headers);
        headers.insert(AUTHORIZATION, token);
        if let Ok(host) = HeaderValue::from_str(self.authority.as_str()) {
            headers.insert(HOST, host);
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<TcpStream, CallError> {
        // An IPv6 address stands in brackets in a URL and without them for the resolver.
        let host = self.authority.host();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let target = (host, self.authority.port_u16().unwrap_or(80));
        let failed = |source| CallError::Connect {
            address: self.address(),
            source,
        };
        let connected = timeout(self.connect, TcpStream::connect(target)).await;
        let stream = connected
            .map_err(|_| CallError::ConnectTimeout {
                address: self.address(),
                bound: self.connect,
            })?
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }

    async fn refusal(&self, response: Response<ResponseBody>) -> CallError {
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            return CallError::Unauthorized {
                address: self.address(),
                token_file: self.token_file.clone(),
            };
        }
        let retry_after = seconds(response.headers());
        let body = Limited::new(response.into_body(), PROBLEM_BYTES);
        let body = body.collect().await.map(|body| body.to_bytes());
        let problem = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok());
        let mut refusal = problem.unwrap_or_else(|| Refusal {
            status,
            code: "refused".to_owned(),
            component: "svcprovider".to_owned(),
            detail: format!("{} answered {status}", self.authority),
            retry_after,
        });
        (refusal.status, refusal.retry_after) = (status, retry_after);
        CallError::Refused(refusal)
    }
}

fn seconds(headers: &HeaderMap) -> Option<u32> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

/// Goes on reading from a server that takes no more bytes: it may have refused early, and its answer waits to be read
/// (RFC 9112 section 9.5). So a failed write is pretended, and reading tells what became of the exchange.
struct EarlyResponseStream {
    stream: TcpStream,
    write_closed: bool,
    progress: Progress,
}

impl AsyncRead for EarlyResponseStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for EarlyResponseStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.write_closed {
            // Never ready again: pretending to send the rest of a large body would only read it from its file.
            return Poll::Pending;
        }
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(Err(_)) => {
                self.write_closed = true;
                Poll::Pending
            }
            Poll::Ready(taken) => {
                self.progress.moved();
                Poll::Ready(taken)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
