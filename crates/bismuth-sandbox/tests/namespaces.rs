//! Namespaces on the real kernel: created, entered, adopted, and removed without leaks.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::process::Command;

use bismuth_sandbox::namespaces::{Error, Namespaces, SERVICE_ADDRESS};
use bismuth_sandbox::{IdRange, netns};
use common::{HostState, Scratch, eventually, ids};
use rustix::event::{PollFd, PollFlags};

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn listen(namespaces: &Namespaces, address: SocketAddr) -> TcpListener {
    netns::listen_tcp(namespaces.net_fd(), address, 16)
        .unwrap()
        .into()
}

/// Connects a socket made inside the namespace.
fn connect(net: BorrowedFd<'_>, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = netns::tcp_socket(net).unwrap();
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    rustix::event::poll(&mut fds, None).unwrap();
    rustix::net::sockopt::socket_error(&socket).unwrap()?;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn own_net() -> std::path::PathBuf {
    fs::read_link("/proc/thread-self/ns/net").unwrap()
}

#[test]
fn fifty_namespace_pairs_leave_nothing_behind() {
    let scratch = Scratch::new();
    let ranges = [ids(0), ids(1)];
    let before = HostState::of(scratch.path(), &ranges);
    for _ in 0..25 {
        for range in ranges {
            let dir = scratch.dir("c");
            let namespaces = Namespaces::create(&dir, range).unwrap();
            assert_ne!(HostState::of(scratch.path(), &ranges), before);
            drop(namespaces);
            Namespaces::remove(&dir).unwrap();
            fs::remove_dir(&dir).unwrap();
        }
    }
    assert_eq!(HostState::of(scratch.path(), &ranges), before);
}

#[test]
fn a_listener_on_loopback_is_reached_only_from_inside() {
    let scratch = Scratch::new();
    let ours = Namespaces::create(&scratch.dir("a"), ids(0)).unwrap();
    let other = Namespaces::create(&scratch.dir("b"), ids(1)).unwrap();
    let listener = listen(&ours, loopback(0));
    let address = listener.local_addr().unwrap();

    let refused = connect(other.net_fd(), address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // Something else of this machine may listen on that port; ours must not notice.
    drop(TcpStream::connect(address));
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);

    let mut client = connect(ours.net_fd(), address).unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let (mut server, _) = listener.accept().unwrap();
    server.set_nonblocking(false).unwrap();
    let mut heard = String::new();
    server.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");
}

#[test]
fn every_container_has_its_own_service_address() {
    let scratch = Scratch::new();
    let address = (SERVICE_ADDRESS, 9000).into();
    let pair = ["a", "b"].map(|name| {
        let namespaces = Namespaces::create(&scratch.dir(name), ids(0)).unwrap();
        let listener = listen(&namespaces, address);
        (namespaces, listener)
    });
    let _client = connect(pair[1].0.net_fd(), address).unwrap();
    assert_eq!(
        pair[0].1.accept().unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    pair[1].1.accept().unwrap();
}

#[test]
fn programs_inside_see_the_mapping_and_may_use_every_port() {
    let scratch = Scratch::new();
    let range = ids(0);
    let namespaces = Namespaces::create(&scratch.dir("c"), range).unwrap();
    let output = Command::new("nsenter")
        .arg(format!("--user={}", namespaces.user_path().display()))
        .arg(format!("--net={}", namespaces.net_path().display()))
        .args(["cat", "/proc/self/uid_map", "/proc/self/gid_map"])
        .arg("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let map = format!("0 {} 65536", range.host_start);
    let shown = String::from_utf8(output.stdout).unwrap();
    let shown: Vec<_> = shown
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(shown, [map.as_str(), map.as_str(), "0"]);
}

#[test]
fn the_calling_thread_comes_back_whatever_happens_inside() {
    let scratch = Scratch::new();
    let namespaces = Namespaces::create(&scratch.dir("c"), ids(0)).unwrap();
    let before = own_net();
    let inside = netns::run_in(namespaces.net_fd(), own_net).unwrap();
    assert_ne!(inside, before);
    assert_eq!(own_net(), before);
    netns::tcp_socket(namespaces.net_fd()).unwrap();
    assert_eq!(own_net(), before);
    let panicked = std::panic::catch_unwind(|| {
        netns::run_in(namespaces.net_fd(), || panic!("inside")).unwrap();
    });
    assert!(panicked.is_err());
    assert_eq!(own_net(), before);
    let wrong = netns::run_in(namespaces.user_fd(), || ()).unwrap_err();
    assert!(matches!(wrong, netns::Error::Enter(_)), "{wrong}");
    assert_eq!(own_net(), before);
}

/// Not a test of its own: what `an_adopted_pair_…` runs in another process.
#[test]
#[ignore = "run by another test in a process of its own"]
fn create_and_exit() {
    let dir = std::env::var("BISMUTH_SANDBOX_DIR").unwrap();
    let host_start = std::env::var("BISMUTH_SANDBOX_IDS").unwrap();
    let range = IdRange {
        host_start: host_start.parse().unwrap(),
        size: IdRange::SIZE,
    };
    Namespaces::create(dir.as_ref(), range).unwrap();
}

#[test]
fn an_adopted_namespace_pair_works_after_its_creator_is_gone() {
    let scratch = Scratch::new();
    let dir = scratch.dir("c");
    let range = ids(0);
    let before = HostState::of(scratch.path(), &[range]);
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "create_and_exit", "--ignored"])
        .env("BISMUTH_SANDBOX_DIR", &dir)
        .env("BISMUTH_SANDBOX_IDS", range.host_start.to_string())
        .status()
        .unwrap();
    assert!(status.success());

    let adopted = Namespaces::open(&dir).unwrap();
    let listener = listen(&adopted, loopback(80));
    connect(adopted.net_fd(), loopback(80)).unwrap();
    listener.accept().unwrap();
    drop((adopted, listener));
    Namespaces::remove(&dir).unwrap();
    assert_eq!(HostState::of(scratch.path(), &[range]), before);
}

#[test]
fn pins_stay_valid_while_their_descriptors_are_used() {
    let scratch = Scratch::new();
    let dir = scratch.dir("c");
    drop(Namespaces::create(&dir, ids(0)).unwrap());
    let adopted = Namespaces::open(&dir).unwrap();
    Namespaces::remove(&dir).unwrap();
    // Removed from the tree, but we still hold it.
    let listener = listen(&adopted, loopback(0));
    connect(adopted.net_fd(), listener.local_addr().unwrap()).unwrap();
    Namespaces::remove(&dir).unwrap();
}

#[test]
fn files_that_are_no_namespace_pair_are_refused_by_name() {
    let scratch = Scratch::new();
    let missing = Namespaces::open(&scratch.dir("missing")).unwrap_err();
    assert!(
        missing.to_string().starts_with("open namespace "),
        "{missing}"
    );

    let rebooted = scratch.dir("rebooted");
    fs::write(rebooted.join("user"), "").unwrap();
    fs::write(rebooted.join("net"), "").unwrap();
    let refused = Namespaces::open(&rebooted).unwrap_err();
    assert!(matches!(refused, Error::NotPinned { .. }), "{refused}");
    Namespaces::remove(&rebooted).unwrap();
    assert_eq!(fs::read_dir(&rebooted).unwrap().count(), 0);

    let (a, b) = (scratch.dir("a"), scratch.dir("b"));
    let first = Namespaces::create(&a, ids(0)).unwrap();
    let second = Namespaces::create(&b, ids(1)).unwrap();
    let mixed = scratch.dir("mixed");
    for (name, source) in [("user", first.user_path()), ("net", second.net_path())] {
        fs::write(mixed.join(name), "").unwrap();
        rustix::mount::mount_bind(source, mixed.join(name)).unwrap();
    }
    let refused = Namespaces::open(&mixed).unwrap_err();
    assert!(matches!(refused, Error::Mismatch { .. }), "{refused}");
}

#[test]
fn a_failed_create_changes_nothing() {
    let scratch = Scratch::new();
    let dir = scratch.dir("c");
    fs::write(dir.join("net"), "somebody's").unwrap();
    let before = HostState::of(&dir, &[ids(0)]);

    let taken = Namespaces::create(&dir, ids(0)).unwrap_err();
    assert!(
        taken.to_string().starts_with("pin namespace at "),
        "{taken}"
    );
    let no_ids = IdRange {
        host_start: 1,
        size: 0,
    };
    let refused = Namespaces::create(&dir, no_ids).unwrap_err();
    assert!(matches!(refused, Error::WriteMap { .. }), "{refused}");
    assert_eq!(HostState::of(&dir, &[ids(0)]), before);
    assert_eq!(fs::read_to_string(dir.join("net")).unwrap(), "somebody's");
}

#[test]
fn many_threads_create_namespace_pairs_at_once() {
    let scratch = Scratch::new();
    let before = HostState::of(scratch.path(), &[ids(0)]);
    let dirs: Vec<_> = (0..8).map(|n| scratch.dir(&n.to_string())).collect();
    std::thread::scope(|scope| {
        for dir in &dirs {
            scope.spawn(move || {
                let namespaces = Namespaces::create(dir, ids(0)).unwrap();
                let listener = listen(&namespaces, loopback(80));
                connect(namespaces.net_fd(), loopback(80)).unwrap();
                listener.accept().unwrap();
            });
        }
    });
    for dir in &dirs {
        Namespaces::remove(dir).unwrap();
        fs::remove_dir(dir).unwrap();
    }
    eventually("the threads' ends", || {
        HostState::of(scratch.path(), &[ids(0)]) == before
    });
}
