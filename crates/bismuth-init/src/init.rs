//! The server in the container: a single-threaded epoll loop that starts programs and reaps them.
//!
//! ```text
//!   epoll ─┬ listener ── accept ── from outside? ── Receiving
//!          ├ connection ─ Receiving ── request complete ── spawn ─┬─ failed: SpawnFailed, close
//!          │                                                      └─ Running { pid }: Spawned
//!          │              Running ── peer closes ── kill group, forget
//!          └ signals ─┬ SIGCHLD ── reap: a leader ── kill group, Exited, close
//!                     │                  an orphan ── nothing more
//!                     └ SIGTERM from outside ── kill all, end
//! ```
//!
//! A leader is the process of an execution; it leads a session and a process group of its own, and
//! its orphans become its children.
//! Its group is killed before it is reaped, because until then its number cannot become another's.

mod connection;
mod leftovers;
mod listener;
mod secrets;
mod spawn;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use libc::pid_t;

use crate::{
    SECRETS_DIR,
    protocol::{AfterInject, Exit, FailureKind, InjectRequest, Reply},
    sys::{self, Ended, Epoll, Ready, Signals},
};
use connection::{Connection, Progress};
use leftovers::LeftoverProcesses;
use listener::{AcceptOutcome, Listener};
use spawn::Spawner;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const FIRST_CONNECTION: u64 = 2;
/// How many events are taken at a time; more wait in the kernel.
const EVENTS: usize = 64;
/// Time until accept is tried again when the kernel has no memory for another connection.
const ACCEPT_RETRY_MS: libc::c_int = 50;

/// Why init cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[error("{act}")]
pub struct InitError {
    act: String,
    source: io::Error,
}

impl InitError {
    fn while_doing<A: Into<String>>(act: A) -> impl FnOnce(io::Error) -> Self {
        let act = act.into();
        move |source| Self { act, source }
    }
}

/// Process 1 of an exec container.
#[derive(Debug)]
pub struct Init {
    /// Process 1 of its PID namespace; else (in tests) a plain process that adopts orphans.
    is_pid_1: bool,
    epoll: Epoll,
    signals: Signals,
    listener: Listener,
    spawner: Spawner,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// The connection of every leader that has not been reaped. It may be gone already.
    leaders: HashMap<pid_t, u64>,
    leftovers: LeftoverProcesses,
}

impl Init {
    /// Takes over this process and listens at `socket`.
    ///
    /// # Errors
    /// Names what could not be done.
    pub fn start(socket: &Path) -> Result<Self, InitError> {
        let doing = InitError::while_doing::<&str>;
        sys::close_inherited().map_err(doing("close inherited descriptors"))?;
        sys::forbid_tracing().map_err(doing("forbid tracing"))?;
        let is_pid_1 = std::process::id() == 1;
        if !is_pid_1 {
            sys::adopt_orphans().map_err(doing("become a reaper of orphans"))?;
        }
        let signals = Signals::take_over(&[libc::SIGCHLD, libc::SIGTERM])
            .map_err(doing("take over the signals"))?;
        let epoll = Epoll::new().map_err(doing("create an epoll"))?;
        let spawner = Spawner::new().map_err(doing("prepare to start programs"))?;
        let listener = Listener::open(socket, is_pid_1, &epoll).map_err(InitError::while_doing(
            format!("listen at {}", socket.display()),
        ))?;
        epoll
            .add(signals.fd(), SIGNALS)
            .and_then(|()| epoll.add(listener.fd(), LISTENER))
            .map_err(doing("watch for connections and signals"))?;
        Ok(Self {
            is_pid_1,
            epoll,
            signals,
            listener,
            spawner,
            connections: BTreeMap::new(),
            next_connection: FIRST_CONNECTION,
            leaders: HashMap::new(),
            leftovers: LeftoverProcesses::new(),
        })
    }

    /// Serves until it is told to end.
    ///
    /// # Errors
    /// When the kernel does not let it wait for events any more.
    pub fn run(mut self) -> Result<(), InitError> {
        let mut ready = [Ready::NONE; EVENTS];
        loop {
            let pause = if self.listener.needs_retry() {
                ACCEPT_RETRY_MS
            } else {
                -1
            };
            let count = self
                .epoll
                .wait(&mut ready, pause)
                .map_err(InitError::while_doing("wait for events"))?;
            if self.listener.needs_retry() {
                self.accept_all();
            }
            for event in &ready[..count] {
                match event.token() {
                    LISTENER => self.accept_all(),
                    SIGNALS => {
                        if self.take_signals()? {
                            return Ok(());
                        }
                    }
                    connection => self.advance(connection),
                }
            }
        }
    }

    fn accept_all(&mut self) {
        // Bounded, so that many new connections do not hold up the running ones.
        for _ in 0..EVENTS {
            match self.listener.accept(&self.epoll) {
                AcceptOutcome::Empty => return,
                AcceptOutcome::Refused => {}
                AcceptOutcome::Accepted(socket) => self.serve(socket),
            }
        }
    }

    fn serve(&mut self, socket: OwnedFd) {
        let id = self.next_connection;
        self.next_connection += 1;
        let watched = self.epoll.add(socket.as_fd(), id);
        let mut connection = Connection::new(socket);
        // Watched before anything is started for it: its end must not go unnoticed.
        if let Err(error) = watched {
            connection.reply_last(&exhausted("watch the connection", &error));
            return;
        }
        self.connections.insert(id, connection);
        // A request is usually there already; that saves a round through the loop.
        self.advance(id);
    }

    fn advance(&mut self, id: u64) {
        // It may have ended earlier in the same round.
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match connection.advance() {
            Progress::Waits => {}
            Progress::Request(request, fds) => match self.spawner.spawn(&request, fds) {
                Ok(pid) => {
                    self.leaders.insert(pid, id);
                    if !connection.running(pid) {
                        self.end(id);
                    }
                }
                Err(failure) => {
                    connection.reply_last(&failure);
                    self.connections.remove(&id);
                }
            },
            Progress::Inject(injection) => {
                let connection = self.connections.remove(&id);
                if let Some(connection) = connection {
                    self.inject(injection, connection);
                }
            }
            Progress::Closed => self.end(id),
        }
    }

    /// Does not return if this process becomes the injected program.
    fn inject(&mut self, injection: InjectRequest, mut connection: Connection) {
        if let Err(failure) = secrets::write(Path::new(SECRETS_DIR), &injection.files) {
            return connection.reply_last(&failure);
        }
        match injection.then {
            AfterInject::Serve(variables) => {
                self.spawner.set_variables(variables);
                connection.reply_last(&Reply::Injected);
            }
            // The host may have given up; then nobody would know what runs here.
            AfterInject::Become(program) if connection.flush() => {
                let failure = self.spawner.become_program(&program);
                connection.reply_last(&failure);
            }
            AfterInject::Become(_) => {}
        }
    }

    /// The host does not want this execution any more.
    fn end(&mut self, id: u64) {
        if let Some(pid) = self.connections.remove(&id).and_then(|gone| gone.leader()) {
            kill_group(pid);
        }
    }

    /// Whether it is time to end.
    fn take_signals(&mut self) -> Result<bool, InitError> {
        loop {
            let received = self.signals.next();
            match received.map_err(InitError::while_doing("read the signals"))? {
                None => return Ok(false),
                Some(received) if received.signal == libc::SIGCHLD => self.reap_all(),
                // A sender inside the namespace is the function, which has no business with us.
                Some(received) if self.is_pid_1 && received.sender != 0 => {}
                Some(_) => {
                    self.leaders.keys().copied().for_each(kill_group);
                    return Ok(true);
                }
            }
        }
    }

    fn reap_all(&mut self) {
        let all_gone = loop {
            let pid = match sys::next_ended() {
                Ok(Some(pid)) => pid,
                Ok(None) => break false,
                // ECHILD: there is no child at all.
                Err(_) => break true,
            };
            let leader = self.leaders.remove(&pid);
            if leader.is_some() {
                kill_group(pid);
            }
            let Ok(ended) = sys::reap(pid) else {
                break false;
            };
            let connection = leader.and_then(|id| self.connections.remove(&id));
            if let Some(mut connection) = connection {
                connection.reply_last(&Reply::Exited(match ended {
                    Ended::Code(code) => Exit::Code(code),
                    Ended::Signal(signal) => Exit::Signal(signal),
                }));
            }
        };
        if !all_gone {
            self.leftovers.kill(&self.leaders, self.is_pid_1);
        }
    }
}

/// Kills an execution. Its leader has not been reaped, so its number is still its own; and as
/// the leader of a session it cannot have left its group.
fn kill_group(leader: pid_t) {
    sys::kill(-leader);
}

fn exhausted(act: &str, error: &io::Error) -> Reply {
    Reply::SpawnFailed {
        kind: FailureKind::Exhausted,
        errno: error.raw_os_error().unwrap_or(0),
        what: format!("{act}: {error}"),
    }
}
