//! The service socket of a real container, with a fake svcprovider that answers each request with the token it carries.

#![allow(clippy::unwrap_used)] // Also outside of test functions: what fails here fails the test.

use std::collections::BTreeMap;
use std::net::TcpListener as StdListener;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bismuth_handover::{
    Answer, Attachment, Connection, HeldSocket, Listener, Request, SecretValue, TokenDigest,
};
use bismuth_model::{ContainerId, ContainerState};
use bismuth_testkit::{eventually, http};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use super::{SOON, TestNode};

/// The value of every secret.
const SECRET: &str = "the secret";

/// What the fake holds: for each container whose it is, the socket, and the task that answers on it.
type Sockets = Arc<Mutex<BTreeMap<ContainerId, (Attachment, Arc<TcpListener>, AbortHandle)>>>;

/// What answers on them.
type Tasks = Arc<Mutex<JoinSet<()>>>;

struct FakeProvider {
    sockets: Sockets,
    serving: JoinHandle<()>,
}

impl FakeProvider {
    fn start(path: &Path) -> Result<Self> {
        let listener = Listener::bind(path)?;
        let sockets = Sockets::default();
        let shared = Arc::clone(&sockets);
        let serving = tokio::spawn(async move {
            // Dropped with it, as the connections and sockets of a process are at its end.
            let mut connections = JoinSet::new();
            let tasks = Tasks::default();
            while let Ok(connection) = listener.accept().await {
                connections.spawn(serve(connection, Arc::clone(&shared), Arc::clone(&tasks)));
            }
        });
        Ok(Self { sockets, serving })
    }

    /// As `kill -9` would.
    async fn die(self) {
        self.serving.abort();
        let _aborted = self.serving.await;
        let sockets = std::mem::take(&mut *self.sockets.lock().unwrap());
        for (_, answering, task) in sockets.into_values() {
            task.abort();
            drop(answering);
        }
        tokio::task::yield_now().await;
    }

    async fn holds(&self, id: ContainerId) -> Attachment {
        eventually("the provider holds the socket", SOON, async || {
            let sockets = self.sockets.lock().unwrap();
            let socket = sockets.get(&id).map(|(attachment, ..)| attachment.clone());
            socket.context("it does not")
        })
        .await
    }
}

async fn serve(mut connection: Connection, sockets: Sockets, tasks: Tasks) -> Result<()> {
    connection.handshake().await?;
    loop {
        let received = connection.next().await?;
        let mut back = None;
        let answer = match received.request {
            Request::List => {
                let held = |(attachment, ..): &(Attachment, _, _)| HeldSocket {
                    container: attachment.container,
                    token: attachment.token,
                };
                let held: Vec<HeldSocket> = sockets.lock().unwrap().values().map(held).collect();
                connection.send_held_sockets(received.number, &held).await?;
                continue;
            }
            Request::Attach(attachment) => {
                let socket = received.listener.context("no socket")?;
                let listener = Arc::new(TcpListener::from_std(StdListener::from(socket))?);
                let answering = answer_all(Arc::clone(&listener));
                let task = tasks.lock().unwrap().spawn(answering);
                let socket = (attachment.clone(), listener, task);
                sockets.lock().unwrap().insert(attachment.container, socket);
                Answer::Done
            }
            Request::Detach(id) => {
                if let Some((_, _, task)) = sockets.lock().unwrap().remove(&id) {
                    task.abort();
                }
                Answer::Done
            }
            Request::Duplicate(id) => {
                let sockets = sockets.lock().unwrap();
                back = sockets
                    .get(&id)
                    .map(|(_, listener, _)| listener.as_fd().try_clone_to_owned());
                back.as_ref().map_or(Answer::Absent, |_| Answer::Listener)
            }
            Request::Secret { .. } => {
                let value = SecretValue::new(SECRET.as_bytes().to_vec());
                Answer::Secret(value.context("it is short")?)
            }
            other => anyhow::bail!("{other:?}"),
        };
        let back = back.transpose()?;
        let back = back.as_ref().map(|back| back.as_fd());
        connection.answer(received.number, answer, back).await?;
    }
}

/// Answers each request with the token it carries.
async fn answer_all(listener: Arc<TcpListener>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer_one(stream));
    }
}

async fn answer_one(mut stream: TcpStream) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let token = head
        .lines()
        .find_map(|line| line.strip_prefix("Authorization: Bearer "));
    let token = token.unwrap_or("none");
    let answer = format!(
        "HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n{token}",
        token.len()
    );
    Ok(stream.write_all(answer.as_bytes()).await?)
}

/// The function asks its services, and says what they answered.
const ASKS: &str = "exec:/bin/sh -c 'exec wget -q -O - --header \"Authorization: Bearer $BISMUTH_AUTH\" $BISMUTH_SERVICES/x'";

async fn asked(url: &str, token: TokenDigest) -> Result<()> {
    let answer = http::get(url).await?;
    ensure!(answer.status() == 200, "{answer:?}");
    ensure!(TokenDigest::of(answer.body()) == token, "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn services_answer_across_restarts_of_bismuthd_of_svcprovider_and_of_both() -> Result<()> {
    let mut node = TestNode::start().await?;
    let (function, id) = node.deploy("alpine", ASKS).await?;
    // The start did not wait for a provider.
    node.state(id, ContainerState::Running).await;
    let url = node.url(id, "/");
    let provider = FakeProvider::start(&node.handover)?;
    let attachment = provider.holds(id).await;
    assert_eq!(attachment.function, function);
    assert_eq!(attachment.group.as_str(), function.to_string());
    asked(&url, attachment.token).await?;

    // A request that is made while the provider is away waits for the next one.
    provider.die().await;
    let waiting = tokio::spawn({
        let url = url.clone();
        async move { asked(&url, attachment.token).await }
    });
    let restarted = Instant::now();
    let provider = FakeProvider::start(&node.handover)?;
    provider.holds(id).await;
    let took = restarted.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    waiting.await??;

    // The node dies: the provider goes on with its socket, and the next process asks for it back.
    node.daemon.kill().await?;
    node.daemon.start()?;
    let answers = async || {
        let asked = asked(&url, attachment.token).await;
        asked.map_err(|e| format!("{e:#}"))
    };
    eventually("it answers again", SOON, answers).await;
    provider.die().await;
    let provider = FakeProvider::start(&node.handover)?;
    assert_eq!(provider.holds(id).await.token, attachment.token);
    asked(&url, attachment.token).await?;

    // Both die, and the socket with them.
    node.daemon.kill().await?;
    provider.die().await;
    node.daemon.start()?;
    let provider = FakeProvider::start(&node.handover)?;
    provider.holds(id).await;
    eventually("it answers again", SOON, answers).await;

    node.registry.delete_function(function).await?;
    eventually("the provider has let go of it", SOON, async || {
        let held_none = provider.sockets.lock().unwrap().is_empty();
        held_none.then_some(()).ok_or("it holds it")
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_container_has_a_new_token_and_its_old_socket_is_gone() -> Result<()> {
    let node = TestNode::start().await?;
    let provider = FakeProvider::start(&node.handover)?;
    let (_, id) = node
        .deploy("echo-server", "server:8080:/echo-server --port 8080")
        .await?;
    node.state(id, ContainerState::Running).await;
    let first = provider.holds(id).await;
    let _ends_it = http::get(&node.url(id, "/exit?code=1")).await;
    let second = eventually("it is started again", SOON, async || {
        // A request wants it started, after its backoff.
        let _refused_until_then = http::get(&node.url(id, "/")).await;
        let sockets = provider.sockets.lock().unwrap();
        match sockets.get(&id) {
            Some((now, ..)) if now.token != first.token => Ok(now.clone()),
            Some(_) => Err("it is the first start"),
            None => Err("it does not run"),
        }
    })
    .await;
    assert_eq!(second.container, first.container);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_container_whose_init_has_no_secrets_gets_them_with_each_execution() -> Result<()>
{
    let mut node = TestNode::start().await?;
    let (_, id) = node.deploy("alpine", "exec:/bin/sh -c 'echo $KEY'").await?;
    node.state(id, ContainerState::Running).await;
    let answer = http::get(&node.url(id, "/")).await?;
    ensure!(answer.body() == "\n", "{answer:?}");
    node.daemon.kill().await?;

    // As that version would have left it.
    let path = node._state.join(format!("containers/{id}/slot.json"));
    let mut saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    saved["definition"]["secrets"] = serde_json::json!([{ "name": "key", "env": "KEY" }]);
    let run = saved["run"].as_object_mut().context("it ran")?;
    run.remove("init_has_variables").context("it was saved")?;
    std::fs::write(&path, saved.to_string())?;

    let _provider = FakeProvider::start(&node.handover)?;
    node.daemon.start()?;
    eventually("it has its variable", SOON, async || {
        let answer = http::get(&node.url(id, "/")).await;
        match &answer {
            Ok(said) if said.body() == &format!("{SECRET}\n") => Ok(()),
            _ => Err(format!("{answer:?}")),
        }
    })
    .await;
    Ok(())
}
