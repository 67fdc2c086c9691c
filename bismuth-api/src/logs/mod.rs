//! `GET /function/{id}/logs?follow=&since=&tail=`: what the function's containers print.
//!
//! Without `follow` the answer is text, a line per record, all instances in the order of time:
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z 67e55044-10b1-426f-9247-bb680e5fe0c8 stdout F a whole line
//! ```
//!
//! which is the CRI format with the container after the time (`P` instead of `F`: the line goes on in
//! the next record of this container and stream). Logs that cannot be read are named in the header
//! `x-bismuth-incomplete`.
//!
//! With `follow` it is server-sent events: a record is `data: {"time", "ip", "container_id", "stream",
//! "full", "line"}` with its time as `id`, from which a client that comes back goes on (records of the very same
//! time come again). `event: gap` names a node that does not answer, `event: end` says why nothing more comes.

pub(crate) mod client;
mod follow;
mod history;
mod record;
mod reorder;

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use bismuth_base::chain;
use bismuth_model::FunctionId;
use bismuth_registry::{Error, Registry};
use futures_util::stream::{self, Stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use crate::openapi::responses::{NoFunction, PROBLEM_JSON, ProblemBody, QueryRefused, ReadFails};
use crate::openapi::schemas::{self, Uuid};
use crate::params::{function_id, malformed_query};
use crate::problem::Problem;
use crate::state::AppState;

use client::{LogError, LogOptions};
use follow::{FollowEvent, Follower};
use history::{History, MAX_SOURCES, name_missing};
use record::{Instance, Record};

/// Names the logs that are missing in an answer.
const INCOMPLETE: HeaderName = HeaderName::from_static("x-bismuth-incomplete");
/// The header with which a client of server-sent events comes back.
const LAST_EVENT_ID: &str = "last-event-id";
/// Proxies close what is silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Records on their way to a slow follower. At 16 KiB each, 1 MiB.
const EVENT_QUEUE: usize = 64;
/// More is better read whole.
const LARGEST_TAIL: usize = 100_000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// Server-sent events, and what is still to come
    #[param(value_type = bool, required = false, default = false)]
    follow: Option<String>,
    /// RFC 3339 time, seconds since 1970, or a duration back from now such as 10m
    #[param(nullable = false)]
    since: Option<String>,
    /// At most so many of the newest lines (up to 100000), or all
    #[param(nullable = false)]
    tail: Option<String>,
}

const ANSWER: &str = "A line per record: time, container, stdout or stderr, F or P (the line goes on in the next record), content. \
    Followed: a record is an event with JSON data and its time as id; the events gap and end say what is missing and why it is over";

/// What its containers print, merged by time
#[utoipa::path(
    get,
    path = "/function/{id}/logs",
    operation_id = "getLogs",
    params(("id" = Uuid, Path, description = "The function"), LogQuery),
    responses(
        (
            status = 200,
            description = ANSWER,
            headers(("x-bismuth-incomplete" = String, description = "Logs that are missing, and why")),
            content((String = "text/plain"), (RecordEvent<'static> = "text/event-stream")),
        ),
        QueryRefused,
        NoFunction,
        (
            status = 502,
            description = "No node that has a log answers (`node_unreachable`), or one broke off (`log_broken`)",
            body = ProblemBody,
            content_type = PROBLEM_JSON,
        ),
        ReadFails,
    )
)]
pub(crate) async fn get(
    State(api): State<AppState>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<LogQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = function_id(id)?;
    let Query(query) = query.map_err(|rejection| malformed_query(&rejection))?;
    let last_event = headers
        .get(LAST_EVENT_ID)
        .and_then(|value| value.to_str().ok());
    let options = options(query, last_event, SystemTime::now())?;
    let act = format!("find the containers of function {id}");
    let found = api
        .read(&act, async { Ok(instances(&api.registry, id).await?) })
        .await?;
    let Some(mut instances) = found else {
        return Err(Error::FunctionUnknown { id }.into());
    };
    // Newest first; who has more slots than are read at a time wants the newest.
    instances.truncate(MAX_SOURCES);
    if options.follow {
        Ok(stream_response(&api, id, options, instances))
    } else {
        text_response(&api, instances, options).await
    }
}

/// The containers whose logs make up a function's, newest revision first; `None` if there is no such function.
async fn instances(registry: &Registry, id: FunctionId) -> Result<Option<Vec<Instance>>, Error> {
    if registry.function(id).await?.is_none() {
        return Ok(None);
    }
    let slots = registry.function_containers(id).await?;
    let instance = |(slot, _): (bismuth_model::Backend, _)| Instance {
        ip: slot.ip,
        container_id: slot.container_id,
    };
    Ok(Some(slots.into_iter().map(instance).collect()))
}

fn options(
    query: LogQuery,
    last_event: Option<&str>,
    now: SystemTime,
) -> Result<LogOptions, Problem> {
    let refuse = |field: &str, value: &str, expected: &str| {
        let detail = format!(
            "{field}: {:?} is not {expected}",
            value.chars().take(64).collect::<String>()
        );
        Err(Problem::new(StatusCode::BAD_REQUEST, "query_malformed", detail).field(field))
    };
    let follow = match query.follow.as_deref() {
        None | Some("false" | "0") => false,
        Some("" | "true" | "1") => true,
        Some(other) => return refuse("follow", other, "true or false"),
    };
    let tail = match query.tail.as_deref() {
        None | Some("all") => None,
        Some(text) => match text.parse() {
            Ok(lines) if lines <= LARGEST_TAIL => Some(lines),
            _ => {
                return refuse(
                    "tail",
                    text,
                    &format!("a number of lines up to {LARGEST_TAIL}, or all"),
                );
            }
        },
    };
    let since = match query.since.as_deref() {
        None => None,
        Some(text) => match record::since(text, now) {
            None => {
                return refuse(
                    "since",
                    text,
                    "an RFC 3339 time, seconds since 1970, or a duration such as 10m",
                );
            }
            time => time,
        },
    };
    // A client that comes back wants what it missed, whatever it asked for at first.
    let missed = last_event.filter(|_| follow);
    let (tail, since) = match missed.and_then(|id| record::since(id, now)) {
        Some(time) => (None, Some(time)),
        None => (tail, since),
    };
    Ok(LogOptions {
        tail,
        since,
        follow,
    })
}

async fn text_response(
    api: &AppState,
    instances: Vec<Instance>,
    options: LogOptions,
) -> Result<Response, Problem> {
    let (mut history, missing) = History::open(api.logs, &instances, &options).await;
    if !missing.is_empty() && missing.len() == instances.len() {
        let detail = format!("no log can be read: {}", name_missing(&missing));
        return Err(
            Problem::new(StatusCode::BAD_GATEWAY, "node_unreachable", detail).retry_after(5),
        );
    }
    let body = match options.tail {
        // Each node has sent so many; of all of them only the newest are wanted.
        Some(lines) if instances.len() > 1 => {
            let kept = history
                .newest(lines)
                .await
                .map_err(|error| broken(&error))?;
            Body::from_stream(stream::iter(
                kept.into_iter()
                    .map(|(from, record)| Ok::<_, Infallible>(record.text(from))),
            ))
        }
        _ => Body::from_stream(lines(history)),
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !missing.is_empty()
        && let Ok(named) = HeaderValue::from_str(&name_missing(&missing))
    {
        headers.insert(INCOMPLETE, named);
    }
    Ok(response)
}

/// A log that breaks off breaks the answer off, so that nobody takes half of it for the whole.
fn lines(history: History) -> impl Stream<Item = Result<bytes::Bytes, LogError>> {
    stream::try_unfold(history, |mut history| async {
        let next = history.next().await?;
        Ok(next.map(|(from, record)| (record.text(from), history)))
    })
}

fn broken(error: &LogError) -> Problem {
    Problem::new(StatusCode::BAD_GATEWAY, "log_broken", chain(error)).retry_after(1)
}

fn stream_response(
    api: &AppState,
    id: FunctionId,
    options: LogOptions,
    instances: Vec<Instance>,
) -> Response {
    let (out, events) = mpsc::channel(EVENT_QUEUE);
    let follower = Follower {
        registry: api.registry.clone(),
        client: api.logs,
        function: id,
        options,
        out,
        shutdown: api.shutdown.clone(),
    };
    // Its owner is the answer: it ends when that is dropped.
    let work = AbortOnDropHandle::new(tokio::spawn(follower.run(instances)));
    let stream = stream::unfold((events, work), |(mut events, work)| async {
        let event = sse_event(&events.recv().await?);
        Some((Ok::<_, Infallible>(event), (events, work)))
    });
    let mut response = Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response();
    // nginx and its kin collect an answer otherwise before they pass it on.
    response.headers_mut().insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

#[derive(Serialize, ToSchema)]
#[schema(as = LogRecord)]
struct RecordEvent<'a> {
    #[schema(format = DateTime)]
    time: &'a str,
    #[serde(flatten)]
    #[schema(value_type = schemas::Backend)]
    from: Instance,
    #[schema(schema_with = stream_schema)]
    stream: &'a str,
    /// Whether it ends a line
    full: bool,
    line: &'a str,
}

fn stream_schema() -> Object {
    let values = ["stdout", "stderr"];
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(values))
        .build()
}

#[derive(Serialize)]
struct GapEvent<'a> {
    #[serde(flatten)]
    from: Instance,
    reason: &'a str,
}

fn sse_event(event: &FollowEvent) -> Event {
    match event {
        FollowEvent::Record(from, record) => {
            let Record {
                time,
                stream,
                full,
                content,
            } = record;
            // JSON has no other bytes than text; what is none is shown as U+FFFD.
            let line = String::from_utf8_lossy(content);
            let data = RecordEvent {
                time,
                from: *from,
                stream,
                full: *full,
                line: &line,
            };
            Event::default().id(time).data(json(&data))
        }
        FollowEvent::Gap(from, reason) => Event::default().event("gap").data(json(&GapEvent {
            from: *from,
            reason,
        })),
        FollowEvent::End(reason) => Event::default().event("end").data(reason),
    }
}

/// Strings and a bool: serialising them cannot fail. The text has no line feeds, which would end the event.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
