//! Logs, from fake nodes that answer as bismuthd does.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bismuth_model::{Backend, ContainerId, FunctionId};
use bismuth_testkit::{eventually, http as client};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::harness::{Harness, NODE, SOON, definition};

const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The logs of one node, and who follows them.
#[derive(Default)]
struct Logs {
    past: HashMap<ContainerId, String>,
    followers: HashMap<ContainerId, mpsc::UnboundedSender<String>>,
}

#[derive(Clone, Default)]
struct FakeNode(Arc<Mutex<Logs>>);

impl FakeNode {
    /// Answers at `address`; port 0 takes one.
    async fn serve(address: SocketAddr) -> (Self, SocketAddr) {
        let node = Self::default();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = node.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let node = serving.clone();
                let service = service_fn(move |request| {
                    let answer = node.answer(&request);
                    async { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (node, address)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let id = request.uri().path().strip_prefix("/logs/").unwrap();
        let id: ContainerId = id.parse().unwrap();
        let mut logs = self.0.lock().unwrap();
        let Some(past) = logs.past.get(&id) else {
            let mut none = Response::new(Full::default().boxed());
            *none.status_mut() = StatusCode::NOT_FOUND;
            return none;
        };
        let parameter = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let since = parameter("since").unwrap_or_default();
        let mut lines: Vec<&str> = past.lines().filter(|line| *line >= since).collect();
        if let Some(tail) = parameter("tail") {
            lines.drain(..lines.len().saturating_sub(tail.parse().unwrap()));
        }
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        if parameter("follow") != Some("true") {
            return Response::new(Full::new(Bytes::from(text)).boxed());
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(text).unwrap();
        logs.followers.insert(id, sender);
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
            let text = receiver.recv().await?;
            Some((Ok(Frame::data(Bytes::from(text))), receiver))
        });
        Response::new(http_body_util::BodyExt::boxed(StreamBody::new(frames)))
    }

    fn print(&self, id: ContainerId, second: u32, text: &str) {
        let line = line(second, text);
        let mut logs = self.0.lock().unwrap();
        logs.past.entry(id).or_default().push_str(&line);
        if let Some(follower) = logs.followers.get(&id) {
            // It may have gone.
            let _ = follower.send(line);
        }
    }

    /// Connections of followers end, as when bismuthd restarts.
    fn hang_up(&self) {
        self.0.lock().unwrap().followers.clear();
    }

    async fn is_followed(&self, id: ContainerId) {
        eventually("the log is followed", SOON, async || {
            let followed = self.0.lock().unwrap().followers.contains_key(&id);
            followed.then_some(()).ok_or("it is not")
        })
        .await;
    }
}

fn line(second: u32, text: &str) -> String {
    format!("2026-01-02T03:04:{second:02}.000000000Z stdout F {text}\n")
}

/// A function with a slot on each of two nodes, whose port this is.
async fn harness_on_two_nodes(port: u16) -> (Harness, FunctionId, Vec<Backend>) {
    let flags = ["--node-port", &port.to_string()];
    let harness = Harness::start(&[NODE, OTHER], &flags).await;
    let mut both = definition();
    both["max_instances"] = json!(2);
    let id = harness.create(&both).await;
    let mut slots = harness.routed(id).await;
    slots.sort();
    (harness, id, slots)
}

/// The same, and both nodes answer.
async fn harness_with_two_nodes() -> (Harness, FunctionId, [(FakeNode, Backend); 2]) {
    let (first, address) = FakeNode::serve((NODE, 0).into()).await;
    let (second, _) = FakeNode::serve((OTHER, address.port()).into()).await;
    let (harness, id, slots) = harness_on_two_nodes(address.port()).await;
    (harness, id, [(first, slots[0]), (second, slots[1])])
}

/// The texts of the records, without what is before them.
fn texts(answer: &str) -> Vec<&str> {
    answer
        .lines()
        .map(|line| line.splitn(5, ' ').nth(4).unwrap())
        .collect()
}

#[tokio::test]
async fn the_logs_of_all_instances_are_merged_by_time() {
    let (harness, id, [(first, a), (second, b)]) = harness_with_two_nodes().await;
    for second_of in [1, 4, 5] {
        first.print(a.container_id, second_of, &format!("a{second_of}"));
    }
    for second_of in [2, 3, 6] {
        second.print(b.container_id, second_of, &format!("b{second_of}"));
    }
    let path = format!("/function/{id}/logs");
    let answer = harness.api.get(&path).await;
    let headers = answer.0.headers();
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
    assert!(headers.get("x-bismuth-incomplete").is_none());
    let text = answer.text();
    assert_eq!(texts(&text), ["a1", "b2", "b3", "a4", "a5", "b6"]);
    let first = format!("{} stdout F a1", a.container_id);
    assert_eq!(
        text.lines().next().unwrap(),
        format!("2026-01-02T03:04:01.000000000Z {first}")
    );

    for (query, wanted) in [
        ("tail=2", &["a5", "b6"][..]),
        ("since=2026-01-02T03:04:04Z", &["a4", "a5", "b6"]),
        ("tail=0", &[]),
    ] {
        let answer = harness.api.get(&format!("{path}?{query}")).await;
        assert_eq!(texts(&answer.text()), wanted, "{query}");
    }
}

#[tokio::test]
async fn a_container_that_printed_nothing_has_an_empty_log() {
    let (harness, id, _nodes) = harness_with_two_nodes().await;
    let answer = harness.api.get(&format!("/function/{id}/logs")).await;
    assert_eq!((answer.0.status().as_u16(), &*answer.text()), (200, ""));
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_named() {
    let (first, address) = FakeNode::serve((NODE, 0).into()).await;
    let (harness, id, slots) = harness_on_two_nodes(address.port()).await;
    let here = slots[0];
    first.print(here.container_id, 1, "here");
    let path = format!("/function/{id}/logs");
    let answer = harness.api.get(&path).await;
    assert_eq!(texts(&answer.text()), ["here"]);
    let missing = answer.0.headers()["x-bismuth-incomplete"].to_str().unwrap();
    assert!(
        missing.starts_with("127.0.0.2/") && missing.contains("connect to node"),
        "{missing}"
    );

    harness
        .registry
        .remove_backend(id, here.ip, here.container_id)
        .await
        .unwrap();
    let answer = harness.api.get(&path).await;
    answer.problem(502, "node_unreachable");
}

/// Reads server-sent events.
struct Events {
    body: Incoming,
    buffer: String,
}

impl Events {
    async fn open(harness: &Harness, path: &str) -> Self {
        Self::of(harness.api.request(Method::GET, path)).await
    }

    async fn of(request: http::request::Builder) -> Self {
        let request = request.body(client::full("")).unwrap();
        let answer = client::send(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self {
            body: answer.into_body(),
            buffer: String::new(),
        }
    }

    /// The name and data of the next event; `None` at the end.
    async fn next(&mut self) -> Option<(String, String)> {
        tokio::time::timeout(SOON, self.read())
            .await
            .expect("an event in time")
    }

    async fn read(&mut self) -> Option<(String, String)> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let field = |name| {
                    event
                        .lines()
                        .find_map(|line: &str| line.strip_prefix(name))
                        .unwrap_or_default()
                        .to_owned()
                };
                let (name, data) = (field("event: "), field("data: "));
                self.buffer = rest.to_owned();
                if data.is_empty() && name.is_empty() {
                    continue;
                }
                return Some((name, data));
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer
                .push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }

    async fn line(&mut self) -> String {
        let (name, data) = self.next().await.expect("a record");
        assert_eq!(name, "", "{data}");
        let record: Value = serde_json::from_str(&data).unwrap();
        record["line"].as_str().unwrap().to_owned()
    }

    async fn lines(&mut self, wanted: [&str; 2]) {
        assert_eq!([self.line().await, self.line().await], wanted);
    }
}

#[tokio::test]
async fn a_follower_sees_the_past_and_then_what_is_printed() {
    let (harness, id, [(first, a), (second, b)]) = harness_with_two_nodes().await;
    first.print(a.container_id, 1, "a1");
    second.print(b.container_id, 2, "b2");
    let mut events = Events::open(&harness, &format!("/function/{id}/logs?follow=true")).await;
    events.lines(["a1", "b2"]).await;
    first.is_followed(a.container_id).await;
    second.is_followed(b.container_id).await;
    first.print(a.container_id, 4, "a4");
    second.print(b.container_id, 3, "b3");
    events.lines(["b3", "a4"]).await;
    harness.api.delete(&format!("/function/{id}")).await.ok();
    assert_eq!(
        events.next().await,
        Some(("end".to_owned(), "the function was deleted".to_owned()))
    );
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_follower_misses_and_repeats_nothing_when_a_node_restarts() {
    let (harness, id, [(first, a), _]) = harness_with_two_nodes().await;
    for text in ["one", "two"] {
        first.print(a.container_id, 1, text);
    }
    let mut events = Events::open(&harness, &format!("/function/{id}/logs?follow=true")).await;
    events.lines(["one", "two"]).await;
    first.is_followed(a.container_id).await;
    first.hang_up();
    first.print(a.container_id, 1, "three");
    first.is_followed(a.container_id).await;
    first.print(a.container_id, 2, "four");
    events.lines(["three", "four"]).await;
}

#[tokio::test]
async fn a_new_instance_is_followed_too() {
    let (harness, id, [(first, _), _]) = harness_with_two_nodes().await;
    let mut events = Events::open(&harness, &format!("/function/{id}/logs?follow")).await;
    let slot = harness.registry.add_backend(id, NODE).await.unwrap();
    first.print(slot.container_id, 7, "hello from the new one");
    assert_eq!(events.line().await, "hello from the new one");
}

#[tokio::test]
async fn a_client_that_comes_back_goes_on_from_its_last_event() {
    let (harness, id, [(first, a), _]) = harness_with_two_nodes().await;
    for second in 1..=3 {
        first.print(a.container_id, second, &format!("a{second}"));
    }
    let path = format!("/function/{id}/logs?follow=true&tail=1");
    let request = harness.api.request(Method::GET, &path);
    let last = "2026-01-02T03:04:02.000000000Z";
    let mut events = Events::of(request.header("last-event-id", last)).await;
    events.lines(["a2", "a3"]).await;
}
