//! The harness: the real program, started as a plain process or as process 1, and one execution in it.

use std::{
    fs,
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{fs::PermissionsExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use bismuth_init::protocol::VERSION;
use bismuth_init::{
    ExecRequest, Exit, FailureKind, Reply, ReplyDecoder, SOCKET_NAME, send_request,
};
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_bismuth-init");
/// An id that nobody on the machine has.
pub const OTHER_UID: u32 = 54_321;
pub const ENV: [&str; 1] = ["PATH=/usr/bin:/bin"];
/// Process 1 of a new user and PID namespace, root in there but without any capability.
const AS_PID_1: &str = "unshare --user --map-root-user --pid --fork --kill-child --mount-proc \
     setpriv --bounding-set=-all --inh-caps=-all";
const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits for a condition, looking again and again.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < TIMEOUT, "still waiting: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

pub struct Init {
    process: Child,
    directory: TempDir,
    uid: u32,
}

impl Init {
    /// As a plain process that adopts orphans, with our own user.
    pub fn plain() -> Self {
        Self::start("", 0)
    }

    /// As process 1.
    pub fn as_pid_1() -> Self {
        Self::start(AS_PID_1, 0)
    }

    /// As a plain process of another user, with a shell command (a limit) before it.
    pub fn as_other_user(before: &str) -> Self {
        let setpriv = format!(
            "setpriv --reuid={OTHER_UID} --regid={OTHER_UID} --clear-groups \
             busybox sh -c '{before}; exec \"$0\" \"$@\"'"
        );
        Self::start(&setpriv, OTHER_UID)
    }

    /// As a plain process with a shell command (a limit) before it.
    pub fn limited(before: &str) -> Self {
        Self::start(&format!("busybox sh -c '{before}; exec \"$0\" \"$@\"'"), 0)
    }

    fn start(wrapper: &str, uid: u32) -> Self {
        let directory = TempDir::with_prefix("bm-init-").expect("a directory");
        // The directory above is nobody's business, but must be passed through.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), open).expect("ours");
        let run = directory.path().join("run");
        bismuth_init::host::prepare(&run, uid, uid).expect("we are root");
        // Again is harmless.
        bismuth_init::host::prepare(&run, uid, uid).expect("we are root");
        // Where everybody may execute it.
        let program = directory.path().join("init");
        fs::copy(PROGRAM, &program).expect("it was built");
        let process = Command::new("sh")
            .args(["-c", &format!("exec {wrapper} \"$0\" \"$1\"")])
            .args([&program, &run.join(SOCKET_NAME)])
            .stdin(Stdio::null())
            .spawn()
            .expect("sh is there");
        let init = Self {
            process,
            directory,
            uid,
        };
        init.connect();
        init
    }

    /// The program that the project ships, as process 1 of an empty root with busybox, and that root.
    pub fn in_empty_root() -> (Self, PathBuf) {
        let directory = TempDir::with_prefix("bm-init-").expect("a directory");
        let root = directory.path().to_owned();
        fs::create_dir_all(root.join("run/secrets")).expect("ours");
        fs::copy(build_static(), root.join("init")).expect("it was built");
        fs::copy("/usr/bin/busybox", root.join("busybox")).expect("busybox-static is installed");
        let process = Command::new("unshare")
            .args(["--user", "--map-root-user", "--pid", "--fork"])
            .args(["--kill-child", &format!("--root={}", root.display())])
            .args(["/init", "/run/init.sock"])
            .spawn()
            .expect("it starts");
        let init = Self {
            process,
            directory,
            uid: 0,
        };
        init.connect();
        (init, root)
    }

    /// Nothing of an execution is left, running or not.
    pub fn wait_childless(&self) {
        self.wait_children(0);
    }

    pub fn wait_children(&self, count: usize) {
        eventually(&format!("{count} children"), || {
            (self.children().len() == count).then_some(())
        });
    }

    pub fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.run_directory().join(SOCKET_NAME)
    }

    pub fn connect(&self) -> UnixStream {
        eventually("init listens", || UnixStream::connect(self.socket()).ok())
    }

    /// Its process id out here.
    pub fn pid(&self) -> u32 {
        let outer = self.process.id();
        // unshare waits for its child; every other wrapper becomes what it runs.
        let name = fs::read_to_string(format!("/proc/{outer}/comm")).expect("it runs");
        if name.trim() != "unshare" {
            return outer;
        }
        *children(outer).first().expect("unshare has a child")
    }

    pub fn request(&self, argv: &[&str]) -> ExecRequest {
        let ids = (self.uid, self.uid);
        ExecRequest::new(argv.iter().copied(), ENV, "/", ids).expect("no zero bytes")
    }

    pub fn exec(&self, argv: &[&str]) -> Execution {
        Execution::start(self.connect(), &self.request(argv))
    }

    pub fn shell(&self, script: &str) -> Execution {
        self.exec(&["busybox", "sh", "-c", script])
    }

    /// It still serves.
    pub fn assert_alive(&self) {
        let done = self.exec(&["busybox", "echo", "alive"]).finish();
        assert_eq!(
            (done.exit, done.stdout.as_str()),
            (Exit::Code(0), "alive\n")
        );
    }

    /// Waits until it has open what it has without any connection: three standard ones, epoll and its reserve, signals,
    /// the listener, and the list of children.
    pub fn wait_idle(&self) {
        eventually("only eight descriptors", || {
            let list = fs::read_dir(format!("/proc/{}/fd", self.pid()));
            (list.expect("we are root").count() == 8).then_some(())
        });
    }

    pub fn children(&self) -> Vec<u32> {
        children(self.pid())
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait().expect("it is our child")
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // It may have ended, as some tests want it to.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    let pids = list.split_whitespace().map(|pid| pid.parse());
    pids.collect::<Result<_, _>>().expect("numbers")
}

pub struct Execution {
    pub stream: UnixStream,
    pub stdin: Option<PipeWriter>,
    pub stdout: PipeReader,
    pub stderr: PipeReader,
    decoder: ReplyDecoder,
}

#[derive(Debug)]
pub struct Finished {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

impl Execution {
    pub fn start(stream: UnixStream, request: &ExecRequest) -> Self {
        let (stdin, ours_in) = std::io::pipe().expect("a pipe");
        let (ours_out, stdout) = std::io::pipe().expect("a pipe");
        let (ours_err, stderr) = std::io::pipe().expect("a pipe");
        let fds = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        send_request(&stream, request, fds).expect("init reads");
        Self {
            stream,
            stdin: Some(ours_in),
            stdout: ours_out,
            stderr: ours_err,
            decoder: ReplyDecoder::new(),
        }
    }

    /// The next reply; none at the end of the stream.
    pub fn reply(&mut self) -> Option<Reply> {
        next_reply(&mut self.stream, &mut self.decoder)
    }

    pub fn spawned(&mut self) -> u32 {
        assert_eq!(self.reply(), Some(Reply::Hello { version: VERSION }));
        match self.reply() {
            Some(Reply::Spawned { pid }) => pid,
            other => panic!("not spawned but {other:?}"),
        }
    }

    pub fn failed(&mut self) -> (FailureKind, i32, String) {
        assert_eq!(self.reply(), Some(Reply::Hello { version: VERSION }));
        let Some(Reply::SpawnFailed { kind, errno, what }) = self.reply() else {
            panic!("it did not fail");
        };
        assert_eq!(self.reply(), None, "a failure is the last word");
        (kind, errno, what)
    }

    pub fn exited(&mut self) -> Exit {
        let Some(Reply::Exited(exit)) = self.reply() else {
            panic!("it did not exit");
        };
        assert_eq!(self.reply(), None, "an exit is the last reply");
        exit
    }

    pub fn write_stdin(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("still open");
        stdin.write_all(text.as_bytes()).expect("it reads");
    }

    /// Reads until the end of a line.
    pub fn read_line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0]);
        loop {
            self.stdout.read_exact(&mut byte).expect("it writes");
            if byte[0] == b'\n' {
                return String::from_utf8(line).expect("text");
            }
            line.push(byte[0]);
        }
    }

    /// Closes the connection, which ends the execution, and waits until nobody holds the output any more.
    pub fn abandon(self) {
        let Self {
            stream, mut stdout, ..
        } = self;
        drop(stream);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("text");
    }

    /// Waits until nobody holds the output any more.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("text");
        rest
    }

    /// Closes the input and takes everything until the end.
    pub fn finish(mut self) -> Finished {
        self.spawned();
        self.stdin = None;
        let stdout = self.rest();
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).expect("text");
        Finished {
            exit: self.exited(),
            stdout,
            stderr,
        }
    }
}

/// As the project's scripts build it.
fn build_static() -> PathBuf {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "bismuth-init"])
        .args(["--bin", "bismuth-init", "--target", &target])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.expect("cargo is there").success());
    // target/debug/bismuth-init, or that of another profile.
    let profiles = Path::new(PROGRAM).ancestors().nth(2);
    let profiles = profiles.expect("a target directory");
    profiles.join(target).join("debug/bismuth-init")
}

pub fn next_reply(stream: &mut UnixStream, decoder: &mut ReplyDecoder) -> Option<Reply> {
    let mut buffer = [0; 256];
    loop {
        if let Some(reply) = decoder.next_reply().expect("init keeps to the protocol") {
            return Some(reply);
        }
        // A peer that closes with unread bytes resets the connection, after its last reply.
        let count = stream.read(&mut buffer).unwrap_or(0);
        if count == 0 {
            return None;
        }
        decoder.push(&buffer[..count]);
    }
}

pub fn signal(name: &str, pid: u32) {
    let status = Command::new("busybox")
        .args(["kill", &format!("-{name}"), &pid.to_string()])
        .status();
    assert!(status.expect("busybox is there").success());
}

pub fn write_script(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("ours");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}
