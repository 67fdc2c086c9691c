//! Measures the operations of this crate over many runs. On a busy machine the tenth percentile says more
//! than the median.
//!
//! `cargo run --release -p bismuth-sandbox --example timings` as root. Works in a mount namespace
//! of its own and leaves nothing.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::rootfs::{self, OverlayMethod, RootfsSpec};
use bismuth_sandbox::{IdRange, cgroup, mounts, netns};
use nix::sched::{CloneFlags, unshare};

const RUNS: usize = 200;
const IDS: IdRange = IdRange {
    host_start: 2_500_000_000,
    size: IdRange::SIZE,
};

fn main() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private =
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let scratch = tempfile::Builder::new()
        .prefix("bm-sandbox-")
        .tempdir()
        .unwrap();
    let state = scratch.path().join("state");
    fs::create_dir(&state).unwrap();
    mounts::make_shared_dir(&state).unwrap();

    namespaces(&state);
    sockets(&state);
    root_filesystems(scratch.path(), &state);
    freezer();
    mounts::unmount_under(&state).unwrap();
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let micros = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times[index.min(times.len() - 1)].as_secs_f64() * 1e6
    };
    let (best, median, tail) = (micros(0.1), micros(0.5), micros(0.99));
    println!("{what:<40} p10 {best:>8.1} µs   p50 {median:>8.1} µs   p99 {tail:>8.1} µs");
}

fn timed<T>(times: &mut Vec<Duration>, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = act();
    times.push(start.elapsed());
    done
}

fn namespaces(state: &Path) {
    let (mut create, mut open, mut remove) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..RUNS {
        let dir = state.join(format!("ns-{n}"));
        fs::create_dir(&dir).unwrap();
        drop(timed(&mut create, || {
            Namespaces::create(&dir, IDS).unwrap()
        }));
        drop(timed(&mut open, || Namespaces::open(&dir).unwrap()));
        timed(&mut remove, || Namespaces::remove(&dir).unwrap());
        fs::remove_dir(&dir).unwrap();
    }
    report("namespaces: create", create);
    report("namespaces: open (adopt)", open);
    report("namespaces: remove", remove);
}

fn sockets(state: &Path) {
    let dir = state.join("sockets");
    fs::create_dir(&dir).unwrap();
    let namespaces = Namespaces::create(&dir, IDS).unwrap();
    let net = namespaces.net_fd();
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, 80).into();
    let (mut visit, mut socket, mut connect, mut listen) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS * 10 {
        timed(&mut visit, || netns::run_in(net, || ()).unwrap());
        timed(&mut socket, || netns::tcp_socket(net).unwrap());
        let service = (Ipv4Addr::new(169, 254, 169, 254), 9000).into();
        timed(&mut listen, || netns::listen_tcp(net, service, 64).unwrap());
    }
    let listener = netns::listen_tcp(net, address, 1024).unwrap();
    for _ in 0..RUNS {
        let stream = timed(&mut connect, || {
            let socket = netns::tcp_socket(net).unwrap();
            // Over loopback the handshake is done when connect returns.
            let _ = rustix::net::connect(&socket, &address);
            socket
        });
        rustix::net::sockopt::socket_error(&stream)
            .unwrap()
            .unwrap();
        drop(rustix::net::accept(&listener).unwrap());
    }
    report("netns: visit and come back", visit);
    report("netns: tcp_socket", socket);
    report("netns: tcp_socket and connect", connect);
    report("netns: listen_tcp", listen);
    drop(namespaces);
    Namespaces::remove(&dir).unwrap();
}

fn root_filesystems(scratch: &Path, state: &Path) {
    let pins = state.join("pins");
    fs::create_dir(&pins).unwrap();
    let namespaces = Namespaces::create(&pins, IDS).unwrap();
    let layers: Vec<PathBuf> = (0..10)
        .map(|n| scratch.join(format!("layer-{n}")))
        .collect();
    for layer in &layers {
        fs::create_dir_all(layer.join("etc")).unwrap();
    }
    for method in [OverlayMethod::Detached, OverlayMethod::Attached] {
        for count in [1, 10] {
            let dir = state.join("root");
            fs::create_dir(&dir).unwrap();
            let spec = RootfsSpec {
                lower_dirs: layers[..count].to_vec(),
                dir: dir.clone(),
                user_ns: namespaces.user_fd(),
                ids: IDS,
                disk_bytes: 64 << 20,
            };
            let (mut mount, mut unmount) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                let root = timed(&mut mount, || rootfs::mount_by(method, &spec).unwrap());
                fs::write(root.join("file"), "text").unwrap();
                timed(&mut unmount, || rootfs::unmount(&dir).unwrap());
            }
            report(&format!("rootfs: mount, {count} layers, {method:?}"), mount);
            report(
                &format!("rootfs: unmount, {count} layers, {method:?}"),
                unmount,
            );
            fs::remove_dir(&dir).unwrap();
        }
    }
    drop(namespaces);
    Namespaces::remove(&pins).unwrap();
}

fn freezer() {
    let id = format!("timings-{}", std::process::id());
    let group = cgroup::detect().unwrap().container_cgroup(&id).unwrap();
    let Some(path) = group.path("freezer") else {
        return;
    };
    fs::create_dir_all(&path).unwrap();
    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
    let (mut freeze, mut thaw) = (Vec::new(), Vec::new());
    let bound = Duration::from_secs(5);
    for _ in 0..RUNS {
        timed(&mut freeze, || group.freeze(bound).unwrap());
        timed(&mut thaw, || group.thaw(bound).unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut remove = Vec::new();
    timed(&mut remove, || group.remove(bound).unwrap());
    report("cgroup: freeze", freeze);
    report("cgroup: thaw", thaw);
    report("cgroup: remove (v1 freezer only, once)", remove);
}
