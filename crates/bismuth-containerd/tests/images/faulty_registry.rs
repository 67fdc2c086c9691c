//! A registry with faults on demand: wrong content, cut connections, error statuses, passwords.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bismuth_testkit::Image;
use bismuth_testkit::image::Blob;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What goes wrong with one blob.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after this many bytes of a response; so many times, then it is well.
    CutAfter(u64, u32),
    /// This status; so many times, then it is well.
    Status(StatusCode, u32),
    /// Other content of the same length.
    Corrupt,
    /// Ranges are ignored.
    NoRanges,
}

#[derive(Clone)]
enum Content {
    Memory(Bytes),
    File(PathBuf),
}

#[derive(Default)]
struct State {
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<String, Content>,
    faults: HashMap<String, Fault>,
    password: Option<String>,
    log: Vec<String>,
}

/// The registry. Its task ends with it.
pub struct FaultyRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultyRegistry {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bind");
        let address = listener.local_addr().expect("address");
        let state: Arc<Mutex<State>> = Arc::default();
        let served = state.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let served = served.clone();
                let service = service_fn(move |request| {
                    let served = served.clone();
                    async move { Ok::<_, Infallible>(answer(&served, request).await) }
                });
                connections.spawn(async move {
                    // A connection that a fault cut ends with an error; that is what it is for.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    /// One that serves `image`, and the image's name.
    pub async fn serving(image: &Image) -> (Self, String) {
        let registry = Self::start().await;
        registry.put("1", image);
        let reference = registry.reference("demo/x:1");
        (registry, reference)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("state")
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Serves `image` as any repository's `tag`, and by digest.
    pub fn put(&self, tag: &str, image: &Image) {
        let mut state = self.state();
        for manifest in image.manifests() {
            let content = content_of(manifest);
            state
                .manifests
                .insert(manifest.digest().to_owned(), content.clone());
            if manifest.digest() == image.digest() {
                state.manifests.insert(tag.to_owned(), content);
            }
        }
        for blob in image.blobs().iter().filter(|blob| blob.size() < 32 << 20) {
            state.blobs.insert(
                blob.digest().to_owned(),
                Content::Memory(blob.read().expect("blob")),
            );
        }
    }

    /// Serves a blob from a file.
    pub fn put_file(&self, digest: &str, path: &Path) {
        let content = Content::File(path.to_owned());
        self.state().blobs.insert(digest.to_owned(), content);
    }

    /// Answers requests for the manifest `digest` with another one.
    pub fn serve_instead(&self, digest: &str, instead: &Image) {
        let content = content_of(&instead.manifests()[0]);
        self.state().manifests.insert(digest.to_owned(), content);
    }

    pub fn fault(&self, digest: &str, fault: Fault) {
        self.state().faults.insert(digest.to_owned(), fault);
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Asks for this value of `Authorization`.
    pub fn require_authorization(&self, authorization: &str) {
        self.state().password = Some(authorization.to_owned());
    }

    /// `GET /v2/…` lines for blobs and manifests, with the offset where a range was asked for.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// How often a blob or manifest was asked for.
    pub fn count(&self, digest: &str) -> usize {
        self.log()
            .iter()
            .filter(|line| line.contains(digest))
            .count()
    }
}

fn content_of(manifest: &Blob) -> (String, Bytes) {
    let bytes = manifest.read().expect("manifest");
    (manifest.media_type().to_owned(), bytes)
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let text = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
    Response::builder()
        .status(status)
        .body(full(text))
        .expect("response")
}

async fn answer(state: &Arc<Mutex<State>>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let range = request.headers().get(header::RANGE).and_then(|value| {
        value
            .to_str()
            .ok()?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    let authorization = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    if path == "/token" {
        return token(request).await;
    }
    let (blob, fault) = {
        let mut state = state.lock().expect("state");
        if state.password.is_some() && state.password != authorization {
            let mut refusal = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "who are you?");
            let bearer = state
                .password
                .as_deref()
                .is_some_and(|wanted| wanted.starts_with("Bearer "));
            let host = request.headers()[header::HOST].to_str().expect("host");
            let challenge = if bearer {
                format!("Bearer realm=\"http://{host}/token\",service=\"here\"")
            } else {
                "Basic realm=\"here\"".to_owned()
            };
            refusal
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge.parse().expect("header"));
            return refusal;
        }
        if path == "/v2/" {
            return Response::new(full("{}"));
        }
        let Some((kind, name)) = path.rsplit_once('/') else {
            return error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "no such path");
        };
        let from = range
            .map(|offset: u64| format!(" from {offset}"))
            .unwrap_or_default();
        state.log.push(format!("{} {path}{from}", request.method()));
        if kind.ends_with("/manifests") {
            return match state.manifests.get(name) {
                Some((media_type, data)) => Response::builder()
                    .header(header::CONTENT_TYPE, media_type)
                    .body(full(data.clone()))
                    .expect("response"),
                None => error(
                    StatusCode::NOT_FOUND,
                    "MANIFEST_UNKNOWN",
                    "never heard of it",
                ),
            };
        }
        let Some(blob) = state.blobs.get(name).cloned() else {
            return error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such blob");
        };
        let fault = state.faults.get(name).cloned();
        let left = match &fault {
            Some(Fault::CutAfter(bytes, times)) => {
                Some((times - 1, Fault::CutAfter(*bytes, times - 1)))
            }
            Some(Fault::Status(status, times)) => {
                Some((times - 1, Fault::Status(*status, times - 1)))
            }
            _ => None,
        };
        match left {
            Some((0, _)) => drop(state.faults.remove(name)),
            Some((_, again)) => drop(state.faults.insert(name.to_owned(), again)),
            None => {}
        }
        (blob, fault)
    };
    serve(blob, range, fault).await
}

/// A token server: whoever presents the identity token `me` gets the access token `open`.
async fn token(request: Request<Incoming>) -> Response<Body> {
    let form = request
        .into_body()
        .collect()
        .await
        .expect("form")
        .to_bytes();
    let form = String::from_utf8_lossy(&form);
    let known = form.contains("grant_type=refresh_token")
        && form.contains("refresh_token=me&")
        && form.contains("service=here");
    if known {
        Response::new(full(r#"{"access_token":"open"}"#))
    } else {
        error(StatusCode::UNAUTHORIZED, "DENIED", "we have never met")
    }
}

async fn serve(blob: Content, range: Option<u64>, fault: Option<Fault>) -> Response<Body> {
    if let Some(Fault::Status(status, _)) = fault {
        return Response::builder()
            .status(status)
            .body(full("try again"))
            .expect("response");
    }
    let offset = range.filter(|_| !matches!(fault, Some(Fault::NoRanges)));
    let status = if offset.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let offset = offset.unwrap_or(0);
    let (size, content): (u64, stream::BoxStream<'static, std::io::Result<Bytes>>) = match blob {
        Content::Memory(mut data) => {
            if let Some(Fault::Corrupt) = fault {
                data = data.iter().map(|byte| !byte).collect::<Vec<_>>().into();
            }
            let size = data.len() as u64;
            let rest = data.slice(usize::try_from(offset).expect("offset")..);
            // In pieces, as a network brings them.
            let pieces: Vec<_> = rest
                .chunks(16 << 10)
                .map(|piece| Ok(rest.slice_ref(piece)))
                .collect();
            (size, stream::iter(pieces).boxed())
        }
        Content::File(path) => {
            let mut file = tokio::fs::File::open(path).await.expect("open");
            let size = file.metadata().await.expect("metadata").len();
            file.seek(std::io::SeekFrom::Start(offset))
                .await
                .expect("seek");
            (
                size,
                ReaderStream::with_capacity(file.take(u64::MAX), 64 << 10).boxed(),
            )
        }
    };
    let content = match fault {
        Some(Fault::CutAfter(bytes, _)) => cut(content, bytes),
        _ => content,
    };
    let body = StreamBody::new(content.map_ok(Frame::data)).boxed_unsync();
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_LENGTH, size - offset);
    response.body(body).expect("response")
}

/// Ends with an error, hence with the connection, after so many bytes.
fn cut(
    content: stream::BoxStream<'static, std::io::Result<Bytes>>,
    bytes: u64,
) -> stream::BoxStream<'static, std::io::Result<Bytes>> {
    let mut left = bytes;
    let limited = content.map(move |piece| {
        let piece = piece?;
        if left < piece.len() as u64 {
            return Err(std::io::Error::other("cut by the test"));
        }
        left -= piece.len() as u64;
        Ok(piece)
    });
    limited.boxed()
}
