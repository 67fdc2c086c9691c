//! Waits until a server accepts connections and its readiness path, if any, answers.
//!
//! ```text
//!  connect ── accepted ──► readiness path? ── below 400, or none ──► ready, with that connection
//!     ▲ │ refused               │ not yet
//!     │ └── 0.25 ms, growing to 25 ms ──┘      the process ends: Died      time is up: NotListening
//!     └──────────┘
//! ```
//!
//! It holds no thread, however many wait: only a socket is made inside the container's network namespace, which takes
//! microseconds; its connection, the pauses and the end of the process are awaited.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use bismuth_sandbox::netns;
use bismuth_sandbox::process::WatchedProcess;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;

/// The first wait; a small static server is up in about a millisecond.
const FIRST_WAIT: Duration = Duration::from_micros(250);
/// The longest wait: below what a person notices, and cheap.
const LONGEST_WAIT: Duration = Duration::from_millis(25);
/// Loopback connects at once or is refused; it waits only when the program's backlog is full.
const CONNECT_BOUND: Duration = Duration::from_secs(1);
/// How long one readiness request may take before it is given up and repeated.
const PROBE_BOUND: Duration = Duration::from_secs(5);
/// `HTTP/1.1 200` is all that matters of an answer.
const STATUS_BYTES: usize = 12;

/// Why a server does not answer.
#[derive(Debug, Error)]
pub enum ServerNotReady {
    #[error("the program ended before it listened on port {port}")]
    Died { port: u16 },
    #[error("nothing listens on port {port} of the container's loopback after {} ms{}", waited.as_millis(), others(listening))]
    NotListening {
        port: u16,
        waited: Duration,
        /// Where something else listens.
        listening: Vec<u16>,
    },
    #[error("GET {path} on port {port} does not answer with a status below 400 after {} ms: {last}", waited.as_millis())]
    NotHealthy {
        port: u16,
        path: String,
        waited: Duration,
        /// What the last attempt said.
        last: String,
    },
    #[error("the start was cancelled")]
    Cancelled,
    #[error("connect into the container")]
    System(#[from] io::Error),
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
pub struct ServerWait<'a> {
    pub net: BorrowedFd<'a>,
    pub process: &'a WatchedProcess,
    /// Where it should listen.
    pub port: u16,
    /// What must answer below 400, if anything.
    pub path: Option<&'a str>,
    pub bound: Duration,
    pub cancelled: &'a CancellationToken,
}

/// Returns when the server answers, with the connection that was accepted; after a readiness
/// request it is a fresh one.
pub async fn wait(wait: &ServerWait<'_>) -> Result<StdTcpStream, ServerNotReady> {
    tokio::select! {
        biased;
        answered = answers(wait) => answered,
        () = wait.process.ended() => Err(ServerNotReady::Died { port: wait.port }),
        () = wait.cancelled.cancelled() => Err(ServerNotReady::Cancelled),
    }
}

async fn answers(wait: &ServerWait<'_>) -> Result<StdTcpStream, ServerNotReady> {
    let mut attempts = Attempts::begin(FIRST_WAIT, LONGEST_WAIT)?;
    let mut unhealthy = None;
    loop {
        if let Some(connection) = connect(wait.net, wait.port).await? {
            let Some(path) = wait.path else {
                return Ok(connection.into_std()?);
            };
            match probe(connection, path).await {
                Ok(()) => {
                    if let Some(fresh) = connect(wait.net, wait.port).await? {
                        return Ok(fresh.into_std()?);
                    }
                }
                Err(last) => unhealthy = Some(last),
            }
        }
        if attempts.elapsed() >= wait.bound {
            return Err(timed_out(wait, attempts.elapsed(), unhealthy));
        }
        attempts.next().await?;
    }
}

fn timed_out(wait: &ServerWait<'_>, waited: Duration, unhealthy: Option<String>) -> ServerNotReady {
    match (wait.path, unhealthy) {
        (Some(path), Some(last)) => ServerNotReady::NotHealthy {
            port: wait.port,
            path: path.to_owned(),
            waited,
            last,
        },
        _ => ServerNotReady::NotListening {
            port: wait.port,
            waited,
            listening: listening_ports(wait.process.pid()),
        },
    }
}

/// `None` if it was refused.
async fn connect(net: BorrowedFd<'_>, port: u16) -> Result<Option<TcpStream>, ServerNotReady> {
    let socket = netns::tcp_socket(net).map_err(io::Error::from)?;
    let socket = TcpSocket::from_std_stream(StdTcpStream::from(socket));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match tokio::time::timeout(CONNECT_BOUND, socket.connect(address)).await {
        Ok(Ok(connection)) => Ok(Some(connection)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Ok(Err(error)) => Err(ServerNotReady::System(error)),
        Err(_elapsed) => Ok(None),
    }
}

/// One readiness request on a connection of its own; the error says what came instead.
async fn probe(mut connection: TcpStream, path: &str) -> Result<(), String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bismuthd\r\nConnection: close\r\n\r\n"
    );
    let exchange = async {
        connection.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(64);
        while head.len() < STATUS_BYTES && connection.read_buf(&mut head).await? > 0 {}
        Ok::<_, io::Error>(head)
    };
    let head = match tokio::time::timeout(PROBE_BOUND, exchange).await {
        Ok(head) => head.map_err(|e| e.to_string())?,
        Err(_elapsed) => return Err(format!("no answer in {} ms", PROBE_BOUND.as_millis())),
    };
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
            u16::from_str_radix(port, 16).ok().filter(|_| state == "0A")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;
    use std::process::Command;
    use std::thread::JoinHandle;

    use bismuth_sandbox::ids::IdRange;
    use bismuth_sandbox::namespaces::Namespaces;
    use bismuth_sandbox::process::Process;

    use super::*;

    #[test]
    fn the_error_names_ports_where_something_else_listens() {
        let table = "  sl  local_address rem_address   st\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
            1: 0100007F:1F90 0100007F:D431 01 00000000:00000000\n";
        assert_eq!(parse_listening(table), [8080]);
        let error = ServerNotReady::NotListening {
            port: 8000,
            waited: Duration::from_millis(30),
            listening: vec![8080],
        };
        assert_eq!(
            error.to_string(),
            "nothing listens on port 8000 of the container's loopback after 30 ms, but something does on port 8080"
        );
    }

    /// A program that listens in `net` a moment from now, and says these statuses to one request each.
    fn serve(net: BorrowedFd<'_>, port: u16, statuses: &'static [u16]) -> JoinHandle<TcpListener> {
        let net = net.try_clone_to_owned().unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let listener = netns::listen_tcp(net.as_fd(), address, 8).unwrap();
            let listener = TcpListener::from(listener);
            listener.set_nonblocking(false).unwrap();
            for status in statuses {
                let (mut connection, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let read = connection.read(&mut request).unwrap();
                assert!(request[..read].starts_with(b"GET /healthz HTTP/1.1\r\n"));
                write!(connection, "HTTP/1.1 {status} x\r\n\r\n").unwrap();
            }
            listener
        })
    }

    #[tokio::test]
    async fn a_server_is_ready_when_it_accepts_and_its_readiness_path_agrees() {
        let dir = bismuth_testkit::run::subdir("ready").unwrap();
        let ids = IdRange {
            host_start: 1 << 20,
            size: IdRange::SIZE,
        };
        let namespaces = Namespaces::create(&dir, ids).unwrap();
        let mut program = Command::new("sleep").arg("600").spawn().unwrap();
        let process = WatchedProcess::new(Process::open(program.id()).unwrap()).unwrap();
        let cancelled = CancellationToken::new();
        let mut asked = ServerWait {
            net: namespaces.net_fd(),
            process: &process,
            port: 80,
            path: None,
            bound: Duration::from_secs(10),
            cancelled: &cancelled,
        };
        let serving = serve(asked.net, asked.port, &[]);
        let connection = wait(&asked).await.unwrap();
        let (_, peer) = serving.join().unwrap().accept().unwrap();
        assert_eq!(connection.local_addr().unwrap(), peer);

        (asked.port, asked.path) = (81, Some("/healthz"));
        let serving = serve(asked.net, asked.port, &[503, 204]);
        let connection = wait(&asked).await.unwrap();
        let (_, peer) = serving.join().unwrap().accept().unwrap();
        assert_eq!(connection.local_addr().unwrap(), peer, "it is a fresh one");

        program.kill().unwrap();
        asked.port = 82;
        assert!(matches!(
            wait(&asked).await,
            Err(ServerNotReady::Died { port: 82 })
        ));
        program.wait().unwrap();
        Namespaces::remove(&dir).unwrap();
        bismuth_testkit::run::remove(&dir).unwrap();
    }

    #[test]
    fn only_a_status_line_is_an_answer() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 500"), Some(500));
        assert_eq!(status_of(b"SSH-2.0-OpenSSH"), None);
        assert_eq!(status_of(b""), None);
    }
}
