//! A warm request over two hops, against nginx over two hops, and against none.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bismuth_testkit::daemon::static_program;
use bismuth_testkit::process::{Process, Program};
use bismuth_testkit::{Cluster, eventually, http, ports, run};
use serde_json::json;
use tokio::process::Command;

/// Long enough that a stray second does not decide; three rows of two are measured in turns.
const SECONDS: u32 = 5;
const ROUNDS: usize = 3;
const CONNECTIONS: [u32; 2] = [1, 32];

/// What `wrk` says of one path.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    per_second: f64,
    p50_us: f64,
}

pub(crate) async fn measure(cluster: &Cluster) -> Result<()> {
    let dir = run::subdir("bench")?;
    let outcome = measure_in(&dir, cluster).await;
    run::remove(&dir)?;
    outcome
}

async fn measure_in(dir: &Path, cluster: &Cluster) -> Result<()> {
    let id = cluster
        .deploy(&json!({
            "image": "docker.io/library/echo-server:latest",
            "invoke_mode": { "Server": [["/echo-server"], 8000] },
            "concurrency": 1000,
        }))
        .await?;
    let (direct, inner, outer) = (ports::reserve()?, ports::reserve()?, ports::reserve()?);
    let server = Program::new("server", static_program("echo-server")?, dir);
    let _server = server.args(["--port", &direct.to_string()]).spawn()?;
    let _inner = nginx(dir, "inner", inner, direct)?;
    let _outer = nginx(dir, "outer", outer, inner)?;
    let paths = [
        (
            "straight to the server",
            format!("http://127.0.0.1:{direct}/"),
        ),
        ("nginx, nginx, server", format!("http://127.0.0.1:{outer}/")),
        (
            "bismuthfe, bismuthd, server",
            cluster.frontend_url(&format!("/invoke/{id}/")),
        ),
    ];
    for (_, url) in &paths {
        answers(url).await;
    }
    for connections in CONNECTIONS {
        let mut best = [Load::default(); 3];
        for _ in 0..ROUNDS {
            for ((_, url), best) in paths.iter().zip(&mut best) {
                let load = wrk(url, connections).await?;
                if load.per_second > best.per_second {
                    *best = load;
                }
            }
        }
        report(connections, &paths, &best);
    }
    cluster.delete_function(&id).await
}

fn report(connections: u32, paths: &[(&str, String); 3], loads: &[Load; 3]) {
    println!("warm       {connections} connection(s), best of {ROUNDS} runs of {SECONDS} s");
    for ((name, _), load) in paths.iter().zip(loads) {
        println!(
            "           {name:<30} {:>8.0}/s  p50 {:>6.0} us",
            load.per_second, load.p50_us
        );
    }
    let [_, nginx, ours] = loads;
    println!(
        "           ratio to nginx                 {:.2} of its rate, {:.2} of its p50  (goal 0.9, 1.1)",
        ours.per_second / nginx.per_second,
        ours.p50_us / nginx.p50_us,
    );
}

/// One nginx that forwards everything to a port, with connections kept as a careful operator would.
fn nginx(dir: &Path, name: &str, listen: u16, upstream: u16) -> Result<Process> {
    let config = dir.join(format!("{name}.conf"));
    let dir_text = dir.display();
    let text = format!(
        "worker_processes 2; daemon off; pid {dir_text}/{name}.pid; error_log stderr warn;
         events {{ worker_connections 4096; }}
         http {{
           access_log off; keepalive_requests 1000000;
           client_body_temp_path {dir_text}/{name}-body; proxy_temp_path {dir_text}/{name}-proxy;
           fastcgi_temp_path {dir_text}/{name}-f; uwsgi_temp_path {dir_text}/{name}-u; scgi_temp_path {dir_text}/{name}-s;
           upstream next {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000; }}
           server {{
             listen 127.0.0.1:{listen} reuseport;
             location / {{ proxy_pass http://next; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
           }}
         }}\n"
    );
    fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
    Program::new(name, "nginx", dir)
        .arg("-c")
        .arg(config)
        .spawn()
}

async fn answers(url: &str) {
    eventually(
        &format!("{url} answers"),
        Duration::from_secs(30),
        async || match http::get(url).await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => Err(format!("{error:#}")),
        },
    )
    .await;
}

async fn wrk(url: &str, connections: u32) -> Result<Load> {
    let output = Command::new("wrk")
        .args([
            "--threads",
            "1",
            "--latency",
            "--connections",
            &connections.to_string(),
        ])
        .args(["--duration", &format!("{SECONDS}s"), url])
        .output()
        .await
        .context("run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {}\n{text}", output.status);
    ensure!(
        !text.contains("Non-2xx"),
        "{url} does not always answer:\n{text}"
    );
    parse(&text).with_context(|| format!("the output of wrk:\n{text}"))
}

/// The lines `    50%   70.00us` and `Requests/sec:  12345.67`.
fn parse(text: &str) -> Option<Load> {
    let word_after = |start: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(start))?;
        Some(line.trim().to_owned())
    };
    let p50 = word_after("50%")?;
    let (digits, unit) = p50.split_at(p50.find(|c: char| c.is_ascii_alphabetic())?);
    let scale = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    let p50_us = digits.parse::<f64>().ok()? * scale;
    Some(Load {
        per_second: word_after("Requests/sec:")?.parse().ok()?,
        p50_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_writes_is_understood() {
        let text = "  Latency Distribution\n     50%  254.00us\n     75%    1.1ms\nRequests/sec:  50123.45\n";
        let load = parse(text).unwrap();
        assert!((load.p50_us - 254.0).abs() < 1e-9 && (load.per_second - 50123.45).abs() < 1e-9);
        assert!((parse("50% 1.50ms\nRequests/sec: 1\n").unwrap().p50_us - 1500.0).abs() < 1e-9);
        assert!(parse("no numbers").is_none());
    }
}
