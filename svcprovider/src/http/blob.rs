//! Handlers of `/blob/v1/`.

use std::ops::Range;

use bismuth_base::LogThrottle;
use bismuth_http::{Body, BodyError};
use bismuth_store::Key;
use bismuth_store::blobs::{Blob, NewBlob, PutError};
use bismuth_store::records::decide::check;
use bismuth_store::records::{self, Condition, EngineError, Refused, Revision};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED,
    LINK,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use tracing::error;

use super::condition::Conditions;
use super::etag::etag_value;
use super::kv::{absent, content_type, date, media_type};
use super::listing::{BlobPage, ENTRY_BYTES, json_body, json_in};
use super::memory::MemoryPermit;
use super::params::Page;
use super::problems::{self, Refusal};
use super::range::{RangeHeader, SelectedRange, if_range_holds};
use super::{AppState, HandlerResult, RequestContext, body, digest, empty, percent, reads, stored};
use crate::metrics::Metrics;

pub(super) async fn answer(cx: RequestContext<'_>, key: &str, body: Incoming) -> HandlerResult {
    let method = &cx.head.method;
    if key.is_empty() {
        return match reads(method) {
            true => list(cx).await,
            false => Err(problems::method("GET, HEAD")),
        };
    }
    match *method {
        Method::POST | Method::PUT => put(cx, key, body).await,
        Method::DELETE => delete(cx, key).await,
        _ if reads(method) => get(cx, key).await,
        _ => Err(problems::method("GET, HEAD, POST, PUT, DELETE")),
    }
}

async fn get(cx: RequestContext<'_>, key: &str) -> HandlerResult {
    let key = cx.key(key)?;
    let (conditions, head) = (cx.conditions()?, cx.head);
    // Only GET has ranges.
    let sends = head.method == Method::GET;
    let range_header = match sends {
        true => RangeHeader::of(&head.headers)?,
        false => RangeHeader::Whole,
    };
    let result = |blob: &Blob| read_result(head, &conditions, range_header, blob);
    let select = |blob: &Blob| {
        let (status, range) = result(blob).ok()?;
        (sends && status != StatusCode::NOT_MODIFIED).then_some(range)
    };
    let found = cx.app.blobs.get(cx.caller.group(), key.as_str(), select);
    let found = found.await?.ok_or_else(|| absent(&conditions, "blob"))?;
    let (status, sent) = result(&found.blob)?;
    let body = found.body.map(|bytes| outgoing(bytes, &cx.app.metrics));
    let body = body.unwrap_or_default();
    Ok(blob_response(status, &found.blob, sent, body))
}

/// What a read of a blob is answered, and with which of its bytes.
fn read_result(
    head: &Parts,
    conditions: &Conditions,
    range_header: RangeHeader,
    blob: &Blob,
) -> Result<(StatusCode, Range<u64>), Refusal> {
    match conditions.of_read(blob.revision, Some(blob.modified_ms)) {
        None => {}
        Some(StatusCode::NOT_MODIFIED) => return Ok((StatusCode::NOT_MODIFIED, 0..0)),
        Some(_) => return Err(problems::precondition()),
    }
    let whole = (StatusCode::OK, 0..blob.size);
    if !if_range_holds(&head.headers, blob.revision) {
        return Ok(whole);
    }
    match range_header.select(blob.size) {
        SelectedRange::Whole => Ok(whole),
        SelectedRange::Part(range) => Ok((StatusCode::PARTIAL_CONTENT, range)),
        SelectedRange::Nothing => Err(problems::no_such_range(blob.size)),
    }
}

fn blob_response(status: StatusCode, blob: &Blob, sent: Range<u64>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ETAG, etag_value(blob.revision));
    headers.insert(LAST_MODIFIED, date(blob.modified_ms));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(digest::REPR_DIGEST, digest::value(&blob.sha256));
    if status == StatusCode::NOT_MODIFIED {
        return response;
    }
    headers.insert(CONTENT_TYPE, media_type(blob.content_type.as_deref()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(sent.end - sent.start));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{}", sent.start, sent.end - 1, blob.size);
        if let Ok(range) = HeaderValue::try_from(range) {
            headers.insert(CONTENT_RANGE, range);
        }
    }
    response
}

/// Bytes on their way out. If they break, so does the connection: its reader has seen a length and can tell.
fn outgoing(bytes: bismuth_store::blobs::Body, metrics: &Metrics) -> Body {
    static BREAKS: LogThrottle = LogThrottle::new();
    let metrics = metrics.clone();
    let frames = bytes.map_ok(Frame::data).map_err(move |engine| {
        metrics.broken();
        if let Some(left_out) = BREAKS.admit() {
            error!(error = %engine, left_out, "a blob breaks off on its way to a function");
        }
        BodyError::Source(Box::new(engine))
    });
    Body::wrap(StreamBody::new(frames))
}

async fn put(cx: RequestContext<'_>, key: &str, body: Incoming) -> HandlerResult {
    let (key, head) = (cx.key(key)?, cx.head);
    let conditions = cx.conditions()?;
    let since = conditions.unmodified_since();
    let explicit = conditions.of_write()?;
    let mut condition = explicit.clone().unwrap_or(match head.method {
        Method::POST => Condition::Absent,
        _ => Condition::Present,
    });
    // What the method asks for has statuses of its own.
    let no_by_method = || match head.method {
        Method::POST => problems::exists(),
        _ => problems::not_found("blob; POST creates it"),
    };
    if let Some(since) = since {
        let current = state(cx, &key).await?;
        let revision = current.map(|(revision, _)| revision);
        if explicit.is_none() && check(&condition, revision).is_err() {
            return Err(no_by_method());
        }
        let pinned = since.pin(&condition, current);
        condition = pinned.map_err(|no| problems::refused(&no, "blob", 0))?;
    }
    let length = body.size_hint().exact();
    let new = NewBlob {
        group: cx.caller.group().to_owned(),
        content_type: content_type(&head.headers)?,
        condition,
        limits: cx.caller.blob_limits(),
        length,
        sha256: digest::announced(&head.headers)?,
        key: key.into_string(),
    };
    let charge = length.unwrap_or_default() + new.key.len() as u64;
    let done = match cx.app.blobs.put(new, body::stream(body)).await {
        Ok(done) => done,
        Err(PutError::Refused(Refused::Condition { .. }))
            if explicit.is_none() && since.is_none() =>
        {
            return Err(no_by_method());
        }
        Err(error) => return Err(problems::not_stored(error, charge)),
    };
    let mut response = stored(done.replaced, done.blob.revision);
    let digest = digest::value(&done.blob.sha256);
    response.headers_mut().insert(digest::REPR_DIGEST, digest);
    Ok(response)
}

async fn delete(cx: RequestContext<'_>, key: &str) -> HandlerResult {
    let key = cx.key(key)?;
    let condition = cx.write_condition("blob", state(cx, &key)).await?;
    let blobs = &cx.app.blobs;
    let deleted = blobs.delete(cx.caller.group(), key.as_str(), &condition);
    let refused = |error| problems::not_written(error, "blob", 0);
    deleted.await.map_err(refused)?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Which state of a blob is there, and since when.
async fn state(cx: RequestContext<'_>, key: &Key) -> Result<Option<(Revision, u64)>, EngineError> {
    let found = cx.app.blobs.head(cx.caller.group(), key.as_str()).await?;
    Ok(found.map(|blob| (blob.revision, blob.modified_ms)))
}

async fn list(cx: RequestContext<'_>) -> HandlerResult {
    let params = cx.params(&["prefix", "after", "limit", "details"])?;
    let page = params.page()?;
    let (blobs, group) = (&cx.app.blobs, cx.caller.group().to_owned());
    // The array of all is streamed, a page at a time.
    let permit = match params.is_empty() {
        true => MemoryPermit::default(),
        false => cx.acquire(page.limit.get() * ENTRY_BYTES).await?,
    };
    if params.get("details").is_some() {
        let details = blobs.list_details(&group, &page.prefix, page.after, page.limit);
        return json_in(permit, &BlobPage::from(details.await?));
    }
    let after = page.after.clone();
    let listed = blobs.list(&group, &page.prefix, after, page.limit).await?;
    if params.is_empty() {
        return Ok(json_body(all(cx.app, group, page, listed)));
    }
    let keys: Vec<&str> = listed.entries.iter().map(|(key, _)| key.as_str()).collect();
    let mut response = json_in(permit, &keys)?;
    if let (true, Some(last)) = (listed.more, keys.last()) {
        let next = format!(
            "</blob/v1/?prefix={}&after={}&limit={}>; rel=\"next\"",
            percent::encode(&page.prefix),
            percent::encode(last),
            page.limit
        );
        if let Ok(next) = HeaderValue::try_from(next) {
            response.headers_mut().insert(LINK, next);
        }
    }
    Ok(response)
}

/// The whole list as one array, page by page as it is read. The first page was had before, so that an engine that is away is
/// told properly.
fn all(app: &AppState, group: String, page: Page, listed: records::Page) -> Body {
    let blobs = app.blobs.clone();
    let first = (keys(&listed, "["), list_position(listed));
    let rest = stream::try_unfold(first.1, move |last| {
        let (blobs, group, prefix) = (blobs.clone(), group.clone(), page.prefix.clone());
        async move {
            match last {
                ListPosition::Done => Ok(None),
                ListPosition::End => Ok(Some((Bytes::from_static(b"]"), ListPosition::Done))),
                ListPosition::Key(last) => {
                    let listed = blobs.list(&group, &prefix, Some(last), page.limit).await?;
                    Ok(Some((keys(&listed, ","), list_position(listed))))
                }
            }
        }
    });
    let first = stream::once(std::future::ready(Ok::<_, EngineError>(first.0)));
    outgoing(first.chain(rest).boxed(), &app.metrics)
}

/// Where an array that is being written stands.
enum ListPosition {
    /// After this key, and there are more.
    Key(String),
    /// After the last key.
    End,
    /// After its bracket.
    Done,
}

fn list_position(mut listed: records::Page) -> ListPosition {
    match listed.entries.pop().filter(|_| listed.more) {
        Some((last, _)) => ListPosition::Key(last),
        None => ListPosition::End,
    }
}

/// The keys as members of an array, with `before` in front if there are any; an array begins also without.
fn keys(listed: &records::Page, before: &str) -> Bytes {
    let mut text = String::new();
    for (index, (key, _)) in listed.entries.iter().enumerate() {
        text.push_str(if index == 0 { before } else { "," });
        // A string is always JSON.
        text.push_str(&serde_json::to_string(key).unwrap_or_default());
    }
    if text.is_empty() && before == "[" {
        text.push('[');
    }
    text.into()
}
