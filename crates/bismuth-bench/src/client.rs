//! An HTTP client on one kept connection, so that connecting is not measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// No answer that is measured takes this long unless something hangs.
const BOUND: Duration = Duration::from_secs(60);

pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Client {
    /// Connects to `authority` (`HOST:PORT`).
    pub(crate) async fn connect(authority: &str) -> Result<Self> {
        let stream = TcpStream::connect(authority)
            .await
            .with_context(|| format!("connect to {authority}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            authority: authority.to_owned(),
        })
    }

    /// `GET path`, which must succeed: the whole answer and how long it took.
    pub(crate) async fn get(&mut self, path: &str) -> Result<(Response<Bytes>, Duration)> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    /// `GET path`, which must succeed: how long it took.
    pub(crate) async fn timed(&mut self, path: &str) -> Result<Duration> {
        Ok(self.get(path).await?.1)
    }

    /// `POST path`, which must succeed: the body of the answer.
    pub(crate) async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Bytes> {
        let (answer, _took) = self.exchange(Method::POST, path, body.into()).await?;
        Ok(answer.into_body())
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Bytes>, Duration)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .body(Full::new(body))?;
        let exchange = async {
            let began = Instant::now();
            let ready = self.sender.ready().await;
            ready.context("the connection was closed")?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok((Response::from_parts(head, body), began.elapsed()))
        };
        let exchange = tokio::time::timeout(BOUND, exchange).await;
        let (answer, took) = exchange.with_context(|| format!("{path} is not answered"))??;
        ensure!(
            answer.status().is_success(),
            "{path}: {} {}",
            answer.status(),
            String::from_utf8_lossy(answer.body())
        );
        Ok((answer, took))
    }
}
