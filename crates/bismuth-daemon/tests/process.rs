//! Signals, exit codes and the error line of a real process: this test program starts itself.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use bismuth_daemon::{
    Shutdown, Tasks, TelemetryArgs, exit, listen, run_per_core, signals,
    telemetry::{self, LogFormat},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Not a test: what the tests start, in the role named by `ROLE`.
#[test]
#[ignore = "it is the process that the tests start"]
fn daemon() {
    let role = std::env::var("ROLE").expect("the tests set it");
    let code = exit::main("bismuthtest", || run(&role));
    // libtest would turn an exit code into its own.
    std::process::exit(if code == exit::OK.into() {
        0
    } else if code == exit::NOT_DRAINED.into() {
        exit::NOT_DRAINED.into()
    } else {
        exit::FAILURE.into()
    });
}

#[tokio::main(flavor = "current_thread")]
async fn run(role: &str) -> anyhow::Result<()> {
    telemetry::init(&TelemetryArgs {
        log_format: LogFormat::Json,
        log_level: "debug".to_owned(),
    })?;
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(&shutdown);
    signals(&shutdown)?;
    match role {
        "polite" => {}
        "never-ends" => {
            tasks.spawn(
                "never-ends",
                bismuth_daemon::Policy::BestEffort,
                std::future::pending::<()>(),
            );
        }
        "hangs" => {
            println!("ready");
            loop {
                std::thread::park();
            }
        }
        "bind" => {
            let first = listen::bind("127.0.0.1:0".parse()?)?;
            listen::bind(first.local_addr()?)?;
        }
        "core" => {
            let cores = run_per_core(1, "core", |_| async {
                assert!(std::hint::black_box(false), "core broke");
            })?;
            cores.finished().await?;
        }
        other => anyhow::bail!("no role {other}"),
    }
    println!("ready");
    shutdown.cancelled().await;
    let drained = tasks.drain(Duration::from_millis(100)).await;
    shutdown.outcome()?;
    Ok(drained?)
}

struct Daemon {
    child: Child,
}

impl Daemon {
    fn start(role: &str) -> Self {
        let child = Command::new(std::env::current_exe().expect("it runs"))
            .args(["--ignored", "--exact", "daemon", "--nocapture"])
            .env("ROLE", role)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs again");
        Self { child }
    }

    fn wait_ready(mut self) -> Self {
        let stdout = self.child.stdout.as_mut().expect("piped");
        let ready = BufReader::new(stdout)
            .lines()
            .any(|line| line.expect("text").ends_with("ready"));
        assert!(ready, "it ended before it was ready");
        self
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it is there");
    }

    /// Waits until the log has a line with `text`.
    fn wait_log(&mut self, text: &str) {
        let stderr = self.child.stderr.as_mut().expect("piped");
        let mut seen = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains(text) {
            stderr.read_exact(&mut byte).expect("the line comes");
            seen.push(byte[0]);
        }
    }

    fn end(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        let stderr = self.child.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut log).expect("text");
        (self.child.wait().expect("it ends"), log)
    }
}

#[test]
fn the_first_signal_ends_it_in_good_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let daemon = Daemon::start("polite").wait_ready();
        daemon.signal(signal);
        let (status, log) = daemon.end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains(signal.as_str()), "{log}");
        assert!(
            log.lines().all(|line| line.starts_with('{')),
            "only JSON lines are wanted in\n{log}"
        );
    }
}

#[test]
fn the_second_signal_ends_it_at_once_even_if_it_hangs() {
    let mut daemon = Daemon::start("hangs").wait_ready();
    daemon.signal(Signal::SIGINT);
    daemon.wait_log("SIGINT");
    daemon.signal(Signal::SIGTERM);
    let (status, _) = daemon.end();
    assert_eq!(status.code(), Some(128 + 15));
}

#[test]
fn what_did_not_drain_is_named_and_has_its_own_exit_code() {
    let daemon = Daemon::start("never-ends").wait_ready();
    daemon.signal(Signal::SIGTERM);
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(3), "{log}");
    let last = log.lines().last().expect("a line");
    assert_eq!(
        last,
        "bismuthtest: error: drain within 100ms: still running, and aborted now: never-ends"
    );
}

#[test]
fn a_failed_start_is_one_line_that_names_the_address() {
    let (status, log) = Daemon::start("bind").end();
    assert_eq!(status.code(), Some(1));
    let line = log.trim_end();
    assert!(
        line.starts_with("bismuthtest: error: bind 127.0.0.1:"),
        "{log}"
    );
    assert!(
        line.ends_with(": the address is in use by another process"),
        "{log}"
    );
    assert_eq!(line.lines().count(), 1, "{log}");
}

#[test]
fn a_core_that_panics_ends_the_process() {
    let (status, log) = Daemon::start("core").end();
    assert_eq!(status.code(), Some(101), "{log}");
    assert!(
        log.contains("core-0") && log.contains("core broke"),
        "{log}"
    );
}
