//! Warm requests through bismuthfe and bismuthd, compared with two nginx proxies and with no proxy.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use bismuth_testkit::daemon::static_program;
use bismuth_testkit::process::Program;
use bismuth_testkit::{eventually, http, ports, run};

use crate::harness::{Deployed, Harness};
use crate::machine::{children, cpu_time};
use crate::samples::Spread;
use crate::wrk::{self, Turn};
use crate::{Turns, nginx};

const CONNECTIONS: [u32; 3] = [1, 32, 128];
const NGINX: usize = 1;
const OURS: usize = 2;

/// A chain of proxies to the same server.
struct Route {
    name: &'static str,
    url: String,
    /// The proxies on it.
    proxies: Vec<u32>,
}

pub(crate) async fn measure(turns: Turns) -> Result<()> {
    let dir = run::subdir("warm")?;
    let outcome = measure_in(&dir, turns).await;
    run::remove(&dir)?;
    outcome
}

async fn measure_in(dir: &Path, turns: Turns) -> Result<()> {
    let harness = Harness::start("auto").await?;
    let (direct, inner, outer) = (ports::reserve()?, ports::reserve()?, ports::reserve()?);
    let server = Program::new("server", static_program("echo-server")?, dir);
    let _server = server.args(["--port", &direct.to_string()]).spawn()?;
    let inner_nginx = nginx::start(dir, "inner", inner, direct)?;
    let outer_nginx = nginx::start(dir, "outer", outer, inner)?;
    let deployed = deploy(&harness).await?;
    let local = |port: u16| format!("http://127.0.0.1:{port}/");
    let mut routes = [
        Route {
            name: "straight to the server",
            url: local(direct),
            proxies: Vec::new(),
        },
        Route {
            name: "nginx, nginx, server",
            url: local(outer),
            proxies: Vec::new(),
        },
        Route {
            name: "bismuthfe, bismuthd, server",
            url: format!("http://{}{}", harness.frontend_authority(), deployed.path()),
            proxies: harness.daemons()?.to_vec(),
        },
    ];
    for route in &routes {
        answers(&route.url).await;
    }
    for master in [inner_nginx.pid(), outer_nginx.pid()] {
        routes[NGINX].proxies.extend(children(master)?);
    }
    println!(
        "warm       {}; {} turns of {} s",
        harness.background_load().await?,
        turns.rounds,
        turns.each.as_secs()
    );
    for connections in CONNECTIONS {
        report(
            connections,
            &routes,
            &take(&routes, connections, turns).await?,
        );
    }
    Ok(())
}

async fn deploy(harness: &Harness) -> Result<Deployed> {
    let mut definition = Harness::definition(
        "docker.io/library/echo-server:latest",
        "server:8000:/echo-server",
    )?;
    definition.concurrency = 1000;
    // The server beside it has no limit either; nor has it a neighbour that could suffer.
    definition.cpu = 2.0;
    harness.deploy(&definition).await
}

/// All routes in turns, each turn beginning with another one.
async fn take(routes: &[Route; 3], connections: u32, turns: Turns) -> Result<[Vec<Turn>; 3]> {
    let mut taken = [const { Vec::new() }; 3];
    for round in 0..turns.rounds as usize {
        for step in 0..routes.len() {
            let index = (round + step) % routes.len();
            let route = &routes[index];
            let before = cpu_time(&route.proxies)?;
            let load = wrk::load(&route.url, connections, turns.each).await?;
            let cpu = cpu_time(&route.proxies)?.saturating_sub(before);
            taken[index].push(Turn { load, cpu });
        }
    }
    Ok(taken)
}

fn report(connections: u32, routes: &[Route; 3], taken: &[Vec<Turn>; 3]) {
    println!("           {connections} connection(s)");
    for (route, turns) in routes.iter().zip(taken) {
        let of = |figure: fn(&Turn) -> f64| Spread::new(turns.iter().map(figure));
        let mut line = format!(
            "           {:<28} {:.0} /s; p50 {:.0} us, p99 {:.0} us",
            route.name,
            of(|turn| turn.load.per_second),
            of(|turn| turn.load.p50_us),
            of(|turn| turn.load.p99_us),
        );
        if !route.proxies.is_empty() {
            line += &format!(
                "; cpu of the proxies {:.1} us per request",
                of(Turn::cpu_us)
            );
        }
        println!("{line}");
    }
    let pairs = || taken[OURS].iter().zip(&taken[NGINX]);
    println!(
        "           to nginx: rate {:.2}, goal 0.9; p50 {:.2}, goal 1.1; cpu {:.2}",
        Spread::new(pairs().map(|(ours, nginx)| ours.load.per_second / nginx.load.per_second)),
        Spread::new(pairs().map(|(ours, nginx)| ours.load.p50_us / nginx.load.p50_us)),
        Spread::new(pairs().map(|(ours, nginx)| ours.cpu_us() / nginx.cpu_us())),
    );
}

async fn answers(url: &str) {
    let what = format!("{url} answers");
    eventually(&what, Duration::from_secs(30), async || {
        let answer = http::get(url).await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        Ok(())
    })
    .await;
}
