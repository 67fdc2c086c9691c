//! The routes.
//!
//! | path | answer |
//! |---|---|
//! | `/` | `hello` |
//! | `/echo` | the body, streamed back as it comes |
//! | `/sink` | how many bytes the body had; with `?crc=1` its CRC-32 in hexadecimal after them |
//! | `/bytes?n=` | `n` bytes; with `&stall=1` silence follows, with `&abort=1` the connection breaks |
//! | `/sse?n=` | `n` server-sent events, one for each `POST /trigger` |
//! | `/trigger` | lets the next event go |
//! | `/early` | 403 before the body is read |
//! | `/sleep?ms=` | `slept`, after that time |
//! | `/status?code=` | an empty answer with that status |
//! | `/headers` | method, target and headers of the request as JSON |
//! | `/trailers` | trailers of the request as JSON, and an `x-body-bytes` trailer of its own |
//! | `/env` | the environment as JSON |
//! | `/self` | pid, uid, requests served so far |
//! | `/log?bytes=&line=` | writes that many bytes in lines of that length to standard output |
//! | `/memory?bytes=` | touches that much memory and keeps it |
//! | `/exit?code=`, `/abort` | ends the process, by exit code or by a signal |
//! | `/ws`, `/upgrade` | a WebSocket that echoes messages; a raw upgrade that echoes bytes |

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::answers::{Body, json_text, number, text, with_status};
use crate::{streams, upgrade};

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

pub(crate) async fn answer(request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    REQUESTS.fetch_add(1, Ordering::Relaxed);
    let query = request.uri().query().unwrap_or_default().to_owned();
    Ok(match request.uri().path() {
        "/" => text("hello\n"),
        "/echo" => echo(request),
        "/sink" => {
            let (bytes, crc) = streams::count(request.into_body()).await?;
            text(match number::<u8>(&query, "crc") {
                1 => format!("{bytes} {crc:08x}"),
                _ => bytes.to_string(),
            })
        }
        "/bytes" => streams::bytes(number(&query, "n"), &query),
        "/sse" => streams::events(number(&query, "n")),
        "/trigger" => {
            streams::trigger();
            text("triggered\n")
        }
        "/early" => with_status(StatusCode::FORBIDDEN, "not reading that\n"),
        "/sleep" => {
            tokio::time::sleep(Duration::from_millis(number(&query, "ms"))).await;
            text("slept\n")
        }
        "/status" => with_status(
            StatusCode::from_u16(number(&query, "code")).unwrap_or_default(),
            "",
        ),
        "/headers" => json_text(&described(&request)),
        "/trailers" => streams::trailers(request.into_body()).await?,
        "/env" => json_text(&json!(
            std::env::vars().collect::<std::collections::BTreeMap<_, _>>()
        )),
        "/self" => json_text(
            &json!({ "pid": std::process::id(), "requests": REQUESTS.load(Ordering::Relaxed) }),
        ),
        "/log" => log(number(&query, "bytes"), number(&query, "line"))?,
        "/memory" => keep(number(&query, "bytes")),
        "/exit" => exit(number(&query, "code")),
        "/abort" => std::process::abort(),
        "/ws" => upgrade::websocket(request),
        "/upgrade" => upgrade::raw(request),
        other => with_status(
            StatusCode::NOT_FOUND,
            format!("the function has no {other}\n"),
        ),
    })
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = Response::new(
        request
            .into_body()
            .map_err(std::io::Error::other)
            .boxed_unsync(),
    );
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

fn described(request: &Request<Incoming>) -> Value {
    let pairs = request.headers().iter();
    let headers: Vec<_> = pairs
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    json!({ "method": request.method().as_str(), "target": request.uri().to_string(), "headers": headers })
}

fn log(bytes: u64, line: usize) -> Result<Response<Body>, std::io::Error> {
    let line = [vec![b'x'; line.max(2) - 1], b"\n".to_vec()].concat();
    let mut output = std::io::stdout().lock();
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(line.len());
        output.write_all(&line[line.len() - count..])?;
        left -= count as u64;
    }
    output.flush()?;
    Ok(text(format!("logged {bytes} bytes\n")))
}

fn keep(bytes: usize) -> Response<Body> {
    if let Ok(mut kept) = KEPT.lock() {
        kept.push(vec![1; bytes]); // not zero, so that every page is really there
    }
    text(format!("kept {bytes} bytes\n"))
}

fn exit(code: i32) -> ! {
    eprintln!("echo-server: told to exit with {code}");
    std::process::exit(code)
}
