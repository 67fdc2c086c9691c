//! Waiting until a server answers.
//!
//! ```text
//!  connect ── accepted ──► readiness path? ── below 400, or none ──► ready, with that connection
//!     ▲ │ refused               │ not yet
//!     │ └── 0.25 ms, growing to 25 ms ──┘      the process ends: Died      time is up: NotListening
//!     └──────────┘
//! ```
//!
//! It blocks its thread: the first waits are a fraction of a millisecond, which is below what the
//! runtime's timers can tell apart, and each wait is a `poll` of the process's pidfd, so that a
//! death is seen at once.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use bismuth_sandbox::netns;
use bismuth_sandbox::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// The first wait; a small static server is up in about a millisecond.
const FIRST_WAIT: Duration = Duration::from_micros(250);
/// The longest wait: below what a person notices, and cheap.
const LONGEST_WAIT: Duration = Duration::from_millis(25);
/// Loopback connects at once or is refused; it waits only when the program's backlog is full.
const CONNECT_BOUND: Duration = Duration::from_secs(1);
/// How long one readiness request may take before it is given up and repeated.
const PROBE_BOUND: Duration = Duration::from_secs(5);

/// Why a server does not answer.
#[derive(Debug, Error)]
pub enum NotReady {
    /// The process ended first.
    #[error("the program ended before it listened on port {port}")]
    Died {
        /// Where it should have listened.
        port: u16,
    },
    /// Nothing listens.
    #[error("nothing listens on port {port} of the container's loopback after {} ms{}", waited.as_millis(), others(listening))]
    NotListening {
        /// Where it should have listened.
        port: u16,
        /// How long it was tried.
        waited: Duration,
        /// Where something else listens.
        listening: Vec<u16>,
    },
    /// The readiness path does not say so.
    #[error("GET {path} on port {port} does not answer with a status below 400 after {} ms: {last}", waited.as_millis())]
    NotHealthy {
        /// Where it was asked.
        port: u16,
        /// What was asked.
        path: String,
        /// How long it was tried.
        waited: Duration,
        /// What the last attempt said.
        last: String,
    },
    /// It is no longer wanted.
    #[error("the start was cancelled")]
    Cancelled,
    /// A system call failed.
    #[error("reach into the container")]
    System(#[source] io::Error),
}

fn others(listening: &[u16]) -> String {
    if listening.is_empty() {
        return String::new();
    }
    let ports: Vec<_> = listening.iter().map(u16::to_string).collect();
    format!(", but something does on port {}", ports.join(", "))
}

/// What is waited for.
#[derive(Debug)]
pub struct Wait<'a> {
    /// The container's network namespace.
    pub net: BorrowedFd<'a>,
    /// The program.
    pub process: &'a Process,
    /// Where it should listen.
    pub port: u16,
    /// What must answer below 400, if anything.
    pub path: Option<&'a str>,
    /// How long it may take.
    pub bound: Duration,
    /// Ends the waiting early.
    pub cancelled: &'a CancellationToken,
}

/// Blocks until the server answers. Returns the connection that was accepted; after a readiness
/// request it is a fresh one.
pub fn wait(wait: &Wait<'_>) -> Result<TcpStream, NotReady> {
    let started = Instant::now();
    let mut delay = FIRST_WAIT;
    let mut unhealthy = None;
    loop {
        if let Some(connection) = connect(wait.net, wait.port)? {
            match wait.path.map(|path| probe(connection.try_clone(), path)) {
                None => return Ok(connection),
                Some(Ok(())) => {
                    if let Some(fresh) = connect(wait.net, wait.port)? {
                        return Ok(fresh);
                    }
                }
                Some(Err(last)) => unhealthy = Some(last),
            }
        }
        if wait.cancelled.is_cancelled() {
            return Err(NotReady::Cancelled);
        }
        if started.elapsed() >= wait.bound {
            return Err(too_late(wait, started.elapsed(), unhealthy));
        }
        let ended = wait
            .process
            .wait(delay)
            .map_err(|e| NotReady::System(io::Error::other(e)))?;
        if ended {
            return Err(NotReady::Died { port: wait.port });
        }
        delay = (delay * 3 / 2).min(LONGEST_WAIT);
    }
}

fn too_late(wait: &Wait<'_>, waited: Duration, unhealthy: Option<String>) -> NotReady {
    match (wait.path, unhealthy) {
        (Some(path), Some(last)) => NotReady::NotHealthy {
            port: wait.port,
            path: path.to_owned(),
            waited,
            last,
        },
        _ => NotReady::NotListening {
            port: wait.port,
            waited,
            listening: listening_ports(wait.process.pid()),
        },
    }
}

/// `None` if it was refused.
fn connect(net: BorrowedFd<'_>, port: u16) -> Result<Option<TcpStream>, NotReady> {
    let socket = netns::tcp_socket(net).map_err(|e| NotReady::System(io::Error::other(e)))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => match finish_connect(socket.as_fd()) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(e) => return Err(NotReady::System(e)),
        },
        Err(rustix::io::Errno::CONNREFUSED) => return Ok(None),
        Err(e) => return Err(NotReady::System(e.into())),
    }
    Ok(Some(TcpStream::from(socket)))
}

fn finish_connect(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(&socket, PollFlags::OUT)];
    let bound = Timespec::try_from(CONNECT_BOUND).map_err(io::Error::other)?;
    if rustix::event::poll(&mut polled, Some(&bound))? == 0 {
        return Ok(false);
    }
    Ok(rustix::net::sockopt::socket_error(socket)?.is_ok())
}

/// One readiness request on a connection of its own; the error says what came instead.
fn probe(connection: io::Result<TcpStream>, path: &str) -> Result<(), String> {
    let exchange = || -> io::Result<Vec<u8>> {
        let mut connection = connection?;
        connection.set_nonblocking(false)?;
        connection.set_read_timeout(Some(PROBE_BOUND))?;
        connection.set_write_timeout(Some(PROBE_BOUND))?;
        write!(
            connection,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bismuthd\r\nConnection: close\r\n\r\n"
        )?;
        let mut head = vec![0; 64];
        let mut filled = 0;
        // "HTTP/1.1 200" is all that matters.
        while filled < 12 {
            match connection.read(&mut head[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        head.truncate(filled);
        Ok(head)
    };
    let head = exchange().map_err(|e| e.to_string())?;
    match status_of(&head) {
        Some(status) if (200..400).contains(&status) => Ok(()),
        Some(status) => Err(format!("status {status}")),
        None => Err("what it answered is not HTTP".to_owned()),
    }
}

fn status_of(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok()
}

/// Ports on which anything listens in the network namespace of a process, for the error message.
fn listening_ports(pid: u32) -> Vec<u16> {
    let mut ports: Vec<u16> = ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|table| parse_listening(&table))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Local ports of the sockets in state LISTEN (0A), proc_pid_net(5).
fn parse_listening(table: &str) -> Vec<u16> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next()?;
            let state = fields.nth(1)?;
            let port = local.rsplit(':').next()?;
            (state == "0A")
                .then(|| u16::from_str_radix(port, 16).ok())
                .flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_where_something_else_listens() {
        let table = "  sl  local_address rem_address   st\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
            1: 0100007F:1F90 0100007F:D431 01 00000000:00000000\n";
        assert_eq!(parse_listening(table), [8080]);
        let error = NotReady::NotListening {
            port: 8000,
            waited: Duration::from_millis(30),
            listening: vec![8080],
        };
        assert_eq!(
            error.to_string(),
            "nothing listens on port 8000 of the container's loopback after 30 ms, but something does on port 8080"
        );
    }

    #[test]
    fn only_a_status_line_is_an_answer() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 500"), Some(500));
        assert_eq!(status_of(b"SSH-2.0-OpenSSH"), None);
        assert_eq!(status_of(b""), None);
    }
}
