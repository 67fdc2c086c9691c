//! Key reads and writes from inside a container, compared with an empty answer of the same server.
//!
//! ```text
//!  the container ┌ exec ─► wrk ─► 169.254.169.254:9000 ┐ ─► svcprovider ─► embedded engine
//!                                                          ▲
//!  this program, as a second bismuthd ── 500 sockets ──────┘
//! ```

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;

use anyhow::{Context, Result, ensure};
use bismuth_handover::{Attachment, Client as Handover, NodeName, TokenDigest};
use bismuth_model::{ContainerId, FunctionId, ServiceQuotas};
use bismuth_testkit::image;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Turns;
use crate::client::Client;
use crate::harness::{Deployed, Harness};
use crate::machine::{cpu_time, resident};
use crate::samples::Spread;
use crate::wrk::{self, Turn};

/// Connections that read or write at a time.
const CONNECTIONS: u32 = 32;
/// Containers whose sockets svcprovider holds while its memory is looked at.
const CONTAINERS: usize = 500;
const TOKEN: &str = "the token of a container that is not there";

/// What a read may cost over an empty answer.
const READ_BOUND_US: f64 = 60.0;
const READS_PER_SECOND: f64 = 20_000.0;
const WRITES_PER_SECOND: f64 = 2_000.0;
const RESIDENT_BOUND_MIB: f64 = 32.0;

/// Lines of the request's body are wrk's words. `$BISMUTH_AUTH` is in the program's environment and nowhere else.
const LOAD: &[u8] = b"#!/bin/sh
read -r path words
exec wrk --threads 1 --latency -H \"Authorization: Bearer $BISMUTH_AUTH\" $words \"$BISMUTH_SERVICES$path\"
";
/// Ten thousand keys with values of a hundred bytes, one after the other.
const WRITES: &[u8] = b"local value, n = string.rep('v', 100), 0
request = function()
  n = n + 1
  return wrk.format('PUT', '/kv/v1/key-' .. n % 10000, nil, value)
end
";

pub(crate) async fn measure(turns: Turns) -> Result<()> {
    let harness = Harness::start("auto").await?;
    let image = image::with_program("wrk")?
        .file("usr/bin/load", 0o755, LOAD)
        .file("etc/writes.lua", 0o644, WRITES)
        .build()?;
    harness.push("load", &image).await?;
    let mut definition =
        Harness::definition("docker.io/library/load:latest", "exec:/usr/bin/load")?;
    definition.memory = 256 << 20;
    // svcprovider and wrk share the machine's two; nobody is held back by a limit.
    definition.cpu = 2.0;
    let mut bench = Bench {
        deployed: harness.deploy(&definition).await?,
        client: harness.client().await?,
        services: harness.services().daemon().process()?.pid(),
        turns,
    };
    println!(
        "services   {}; {} turns of {} s",
        harness.background_load().await?,
        turns.rounds,
        turns.each.as_secs()
    );
    bench.writes().await?;
    bench.one_connection().await?;
    bench.reads().await?;
    bench.memory(harness.services().socket()).await
}

struct Bench {
    deployed: Deployed,
    client: Client,
    services: u32,
    turns: Turns,
}

impl Bench {
    /// Runs wrk in the container.
    async fn turn(&mut self, path: &str, connections: u32, more: &str) -> Result<Turn> {
        let seconds = self.turns.each.as_secs();
        let words = format!("{path} --connections {connections} --duration {seconds}s {more}\n");
        let before = cpu_time(&[self.services])?;
        let answer = self.client.post(&self.deployed.path(), words).await?;
        let cpu = cpu_time(&[self.services])?.saturating_sub(before);
        let load = wrk::read(&String::from_utf8_lossy(&answer))?;
        Ok(Turn { load, cpu })
    }

    async fn turns(&mut self, path: &str, connections: u32, more: &str) -> Result<Vec<Turn>> {
        let mut taken = Vec::new();
        for _ in 0..self.turns.rounds {
            taken.push(self.turn(path, connections, more).await?);
        }
        Ok(taken)
    }

    /// Each is on the disk when it is answered.
    async fn writes(&mut self) -> Result<()> {
        let taken = self
            .turns("/", CONNECTIONS, "--script /etc/writes.lua")
            .await?;
        rate("writes", &taken, WRITES_PER_SECOND);
        Ok(())
    }

    async fn reads(&mut self) -> Result<()> {
        let taken = self.turns("/kv/v1/key-1", CONNECTIONS, "").await?;
        rate("reads", &taken, READS_PER_SECOND);
        Ok(())
    }

    async fn one_connection(&mut self) -> Result<()> {
        let (mut empty, mut read, mut over) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.turns.rounds {
            let (nothing, key) = (
                self.turn("/", 1, "").await?,
                self.turn("/kv/v1/key-1", 1, "").await?,
            );
            over.push(key.load.p50_us - nothing.load.p50_us);
            empty.push(nothing);
            read.push(key);
        }
        println!("           1 connection");
        for (name, turns) in [("an empty answer", &empty), ("a read", &read)] {
            println!(
                "           {name:<16} p50 {:.0} us, p99 {:.0} us; cpu of svcprovider {:.1} us per request",
                Spread::new(turns.iter().map(|turn| turn.load.p50_us)),
                Spread::new(turns.iter().map(|turn| turn.load.p99_us)),
                Spread::new(turns.iter().map(Turn::cpu_us)),
            );
        }
        let over = Spread::new(over);
        let outcome = verdict(over.median() <= READ_BOUND_US);
        println!(
            "           a read over an empty answer: p50 {over:.0} us, bound {READ_BOUND_US}: {outcome}"
        );
        Ok(())
    }

    /// Containers without their processes: for svcprovider a container is its socket. Each has written and read, and keeps
    /// its connection.
    async fn memory(&mut self, socket: &std::path::Path) -> Result<()> {
        let before = resident(self.services)?;
        let mut handover =
            Handover::connect(socket, &NodeName::new("127.0.0.2").context("a name")?).await?;
        let mut kept = Vec::new();
        for number in 0..CONTAINERS {
            let listener = TcpListener::bind("127.0.0.1:0").context("listen for a container")?;
            let attachment = Attachment {
                container: ContainerId::new_random(),
                function: FunctionId::new_random(),
                group: format!("group-{number}").parse()?,
                quotas: ServiceQuotas::default(),
                token: TokenDigest::of(TOKEN.as_bytes()),
            };
            handover.attach(attachment, listener.as_fd()).await?;
            kept.push(use_once(listener.local_addr()?).await?);
        }
        let after = resident(self.services)?;
        println!(
            "           {CONTAINERS} containers with a connection each: {after:.1} MiB resident ({before:.1} before, after the load), bound {RESIDENT_BOUND_MIB}: {}",
            verdict(after <= RESIDENT_BOUND_MIB)
        );
        Ok(())
    }
}

/// Sets a key and reads it, as a function does.
async fn use_once(socket: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(socket).await?;
    for request in [
        "PUT /kv/v1/key HTTP/1.1\r\ncontent-length: 5\r\n",
        "GET /kv/v1/key HTTP/1.1\r\n",
    ] {
        let host = "host: 169.254.169.254:9000";
        let body = if request.starts_with("PUT") {
            "value"
        } else {
            ""
        };
        let whole = format!("{request}{host}\r\nauthorization: Bearer {TOKEN}\r\n\r\n{body}");
        stream.write_all(whole.as_bytes()).await?;
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer[..length]);
        ensure!(answer.starts_with("HTTP/1.1 20"), "{request}{answer}");
    }
    Ok(stream)
}

fn rate(what: &str, taken: &[Turn], bound: f64) {
    let of = |figure: fn(&Turn) -> f64| Spread::new(taken.iter().map(figure));
    let rates = of(|turn| turn.load.per_second);
    println!(
        "           {CONNECTIONS} connections, {what}: {rates:.0} /s, bound {bound}: {}; p50 {:.0} us, p99 {:.0} us; cpu of svcprovider {:.1} us each",
        verdict(rates.median() >= bound),
        of(|turn| turn.load.p50_us),
        of(|turn| turn.load.p99_us),
        of(Turn::cpu_us),
    );
}

fn verdict(met: bool) -> &'static str {
    if met { "held" } else { "MISSED" }
}
