//! Copies the standard output and error of a container from their FIFOs into its log.
//!
//! One task per container, on the log thread. It reads at most 64 KiB before it writes
//! them, so a program that prints faster than the disk takes waits on its own pipe and costs no
//! memory here. A disk that refuses is reported and what was printed meanwhile is dropped, counted
//! and said in the log: a full disk must not stall the program for ever.
//!
//! Who prints never shares an *open file description* with the copier, since `O_NONBLOCK` belongs to
//! that and not to a descriptor: a program that cleared it would have the copier's next read wait,
//! and all containers' logs with it; and one that found it set would lose output. The shim opens
//! the FIFO by its path, and gives its program another pipe; a program that is started without the
//! shim gets what [`StderrFifo::open`] opens for it alone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::warn;

use super::cri::{RecordSplitter, Stream, encode};
use super::rotate::{Limits, LogFileError, RotatingLog};

/// Read at once: the kernel's pipe buffer.
const CHUNK: usize = 64 * 1024;

/// Asked of the kernel for each FIFO, so that a program can go on printing while bismuthd
/// restarts. It is the most an unprivileged process may ask for (`/proc/sys/fs/pipe-max-size`).
const PIPE_BYTES: usize = 1 << 20;

/// An unfinished line is written out after this silence of its stream, so that a prompt or a progress bar
/// without a line feed is seen by whoever follows the log.
const PARTIAL_LINE_DELAY: Duration = Duration::from_millis(500);

/// What could not be done to which FIFO.
#[derive(Debug, Error)]
pub enum LogCopierError {
    #[error("{act} FIFO {}", path.display())]
    Fifo {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Log(#[from] LogFileError),
}

/// The FIFOs of one container, open, and the log they lead to.
#[derive(Debug)]
pub struct LogCopier {
    stdout: OwnedFd,
    stderr: OwnedFd,
    log: RotatingLog,
}

/// Path of a container's FIFO for one stream, below its directory.
pub fn fifo_path(container_dir: &Path, stream: Stream) -> PathBuf {
    container_dir.join(stream.name())
}

/// Makes both FIFOs if they are not there, and opens them and the log.
///
/// `owner` is the host uid and gid of the container's user, so that a program may open
/// `/dev/stderr` by name.
pub fn open(
    container_dir: &Path,
    owner: (u32, u32),
    log_dir: &Path,
    limits: Limits,
) -> Result<LogCopier, LogCopierError> {
    let log = RotatingLog::open(log_dir, limits)?;
    Ok(LogCopier {
        stdout: open_fifo(&fifo_path(container_dir, Stream::Stdout), owner)?,
        stderr: open_fifo(&fifo_path(container_dir, Stream::Stderr), owner)?,
        log,
    })
}

fn open_fifo(path: &Path, (uid, gid): (u32, u32)) -> Result<OwnedFd, LogCopierError> {
    let failed = |act: &'static str| {
        let path = path.to_owned();
        move |source: rustix::io::Errno| LogCopierError::Fifo {
            act,
            path,
            source: source.into(),
        }
    };
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::mkfifoat(rustix::fs::CWD, path, mode) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(failed("make")(e)),
    }
    // Reading and writing: the open never waits, and the end of file never comes.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fifo = rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open"))?;
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(uid),
        rustix::fs::Gid::from_raw(gid),
    );
    rustix::fs::fchown(&fifo, Some(uid), Some(gid)).map_err(failed("change the owner of"))?;
    // Refused when the user's pipe quota is used up; the default size works too.
    let _ = rustix::pipe::fcntl_setpipe_size(&fifo, PIPE_BYTES);
    Ok(fifo)
}

/// The standard error of programs that are started without the shim.
///
/// It names the FIFO without having it open, so it survives that the path is removed and keeps
/// neither end alive.
#[derive(Debug)]
pub struct StderrFifo(OwnedFd);

impl StderrFifo {
    fn of(fifo: impl AsFd) -> io::Result<Self> {
        open_anew(fifo, OFlags::PATH).map(Self)
    }

    /// A descriptor to write to, which waits while the FIFO is full. Each program must be given
    /// its own: Node.js, for one, sets `O_NONBLOCK` on its standard streams.
    ///
    /// # Errors
    /// `ENXIO` when the copier is gone, and with it the container.
    pub fn open(&self) -> io::Result<OwnedFd> {
        // Without a reader a waiting open would wait for one.
        let end = open_anew(&self.0, OFlags::WRONLY | OFlags::NONBLOCK)?;
        rustix::fs::fcntl_setfl(&end, OFlags::empty())?;
        Ok(end)
    }
}

/// Another open file description of the same file, proc_pid_fd(5).
fn open_anew(file: impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Ok(rustix::fs::open(
        link,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

impl LogCopier {
    /// The standard error of programs that are started without the shim.
    pub fn stderr_fifo(&self) -> io::Result<StderrFifo> {
        StderrFifo::of(&self.stderr)
    }

    /// Copies until `stop` fires (or its sender is dropped), then takes what is left without
    /// waiting for more.
    pub async fn run(self, stop: oneshot::Receiver<()>) -> io::Result<()> {
        let stdout = pipe::Receiver::from_owned_fd(self.stdout)?;
        let stderr = pipe::Receiver::from_owned_fd(self.stderr)?;
        let mut sink = Sink::new(self.log);
        let mut stop = stop;
        let (mut first, mut second) = ((Stream::Stdout, &stdout), (Stream::Stderr, &stderr));
        loop {
            let flush = tokio::time::sleep_until(sink.flush_at());
            // Readiness is cancel safe: nothing is read before the arm runs. The order makes sure
            // that a program which prints without pause on one stream starves nothing: the stop
            // comes first, and whichever stream has had its turn comes last.
            tokio::select! {
                biased;
                _ = &mut stop => break,
                () = flush, if sink.has_partial_line() => sink.flush_overdue(),
                ready = first.1.readable() => {
                    ready?;
                    sink.take(first.0, first.1);
                    std::mem::swap(&mut first, &mut second);
                }
                ready = second.1.readable() => { ready?; sink.take(second.0, second.1); }
            }
            // A program that prints without pause must not keep the log thread from the others.
            tokio::task::consume_budget().await;
        }
        sink.drain(Stream::Stdout, &stdout);
        sink.drain(Stream::Stderr, &stderr);
        sink.flush();
        Ok(())
    }
}

/// The log with what is needed to cut bytes into its records.
struct Sink {
    log: RotatingLog,
    stdout: Source,
    stderr: Source,
    chunk: Vec<u8>,
    records: Vec<u8>,
    dropped: u64,
}

/// One stream on its way into records.
struct Source {
    splitter: RecordSplitter,
    read_at: Instant,
}

impl Source {
    fn new(stream: Stream) -> Self {
        Self {
            splitter: RecordSplitter::new(stream),
            read_at: Instant::now(),
        }
    }

    /// When its unfinished line has waited long enough, if it has one.
    fn flush_at(&self) -> Option<Instant> {
        let has_partial_line = self.splitter.has_partial_line();
        has_partial_line.then(|| self.read_at + PARTIAL_LINE_DELAY)
    }
}

impl Sink {
    fn new(log: RotatingLog) -> Self {
        Self {
            log,
            stdout: Source::new(Stream::Stdout),
            stderr: Source::new(Stream::Stderr),
            chunk: vec![0; CHUNK],
            records: Vec::new(),
            dropped: 0,
        }
    }

    fn take(&mut self, stream: Stream, pipe: &pipe::Receiver) {
        match pipe.try_read(&mut self.chunk) {
            Ok(count) => self.write(stream, count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => warn!(%error, stream = stream.name(), "cannot read a container's output"),
        }
    }

    /// Takes what the kernel still holds, at most one pipe buffer, and then stops: a program that
    /// outlives its stop signal must not keep its copier alive.
    fn drain(&mut self, stream: Stream, pipe: &pipe::Receiver) {
        for _ in 0..=PIPE_BYTES / CHUNK {
            match rustix::io::read(pipe, &mut self.chunk[..]) {
                Ok(count) if count > 0 => self.write(stream, count),
                _ => return,
            }
        }
    }

    fn write(&mut self, stream: Stream, count: usize) {
        let source = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        source.read_at = Instant::now();
        let (now, printed) = (SystemTime::now(), &self.chunk[..count]);
        source.splitter.push(now, printed, &mut self.records);
        self.append(count as u64);
    }

    fn has_partial_line(&self) -> bool {
        self.stdout.splitter.has_partial_line() || self.stderr.splitter.has_partial_line()
    }

    /// When the first unfinished line has waited long enough; nobody asks if there is none.
    fn flush_at(&self) -> Instant {
        let lines = [self.stdout.flush_at(), self.stderr.flush_at()];
        lines
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(Instant::now)
    }

    /// Writes out the unfinished lines that have waited long enough.
    fn flush_overdue(&mut self) {
        let now = Instant::now();
        for source in [&mut self.stdout, &mut self.stderr] {
            if source.flush_at().is_some_and(|at| at <= now) {
                source.splitter.flush(SystemTime::now(), &mut self.records);
            }
        }
        self.append(0);
    }

    fn flush(&mut self) {
        let now = SystemTime::now();
        self.stdout.splitter.flush(now, &mut self.records);
        self.stderr.splitter.flush(now, &mut self.records);
        self.append(0);
    }

    fn append(&mut self, printed: u64) {
        if self.dropped > 0 {
            let note = format!(
                "[bismuth: {} bytes of output were lost, the log could not be written]",
                self.dropped
            );
            let (mut with_note, now) = (Vec::new(), SystemTime::now());
            encode(&mut with_note, now, Stream::Stderr, true, note.as_bytes());
            with_note.append(&mut self.records);
            self.records = with_note;
        }
        match self.log.append(&self.records) {
            Ok(()) => self.dropped = 0,
            Err(error) => {
                if self.dropped == 0 {
                    warn!(error = %error, source = ?std::error::Error::source(&error), "output of a container is being lost");
                }
                self.dropped += printed;
            }
        }
        self.records.clear();
        self.records.shrink_to(2 * CHUNK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, Write};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn me() -> (u32, u32) {
        (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        )
    }

    #[tokio::test]
    async fn all_output_before_the_stop_is_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let copier = open(dir.path(), me(), &dir.path().join("log"), Limits::default()).unwrap();
        let mut out = std::fs::File::options()
            .write(true)
            .open(fifo_path(dir.path(), Stream::Stdout))
            .unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(copier.run(stopped));
        let printed = (0..20_000)
            .map(|i| format!("line {i}\n"))
            .collect::<String>();
        let writer =
            tokio::task::spawn_blocking(move || out.write_all(printed.as_bytes()).unwrap());
        writer.await.unwrap();
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
        let log = std::fs::read_to_string(dir.path().join("log/0.log")).unwrap();
        assert_eq!(log.lines().count(), 20_000);
        assert!(log.ends_with(" stdout F line 19999\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_line_is_seen_after_a_moment() {
        let dir = tempfile::tempdir().unwrap();
        let log_dir = dir.path().join("log");
        let copier = open(dir.path(), me(), &log_dir, Limits::default()).unwrap();
        let mut err = std::fs::File::from(copier.stderr_fifo().unwrap().open().unwrap());
        err.write_all(b"password: ").unwrap();
        let (_stop, stopped) = oneshot::channel();
        let task = tokio::spawn(copier.run(stopped));
        let path = super::super::rotate::file_path(&log_dir, 0);
        while std::fs::read(&path).unwrap().is_empty() {
            tokio::time::advance(Duration::from_millis(100)).await;
            tokio::task::yield_now().await;
        }
        let log = std::fs::read_to_string(&path).unwrap();
        assert!(log.ends_with(" stderr P password: \n"), "{log}");
        task.abort();
    }

    #[test]
    fn each_program_gets_a_blocking_open_file_description_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let copier = open(dir.path(), me(), &dir.path().join("log"), Limits::default()).unwrap();
        let end = copier.stderr_fifo().unwrap();
        let (mut one, other) = (
            std::fs::File::from(end.open().unwrap()),
            end.open().unwrap(),
        );
        let flags = |fd: &dyn AsFd| rustix::fs::fcntl_getfl(fd.as_fd()).unwrap();
        assert!(!flags(&one).intersects(OFlags::NONBLOCK | OFlags::RDWR));
        rustix::fs::fcntl_setfl(&one, OFlags::NONBLOCK).unwrap();
        assert!(!flags(&other).contains(OFlags::NONBLOCK), "shared by two");
        rustix::fs::fcntl_setfl(&one, OFlags::empty()).unwrap();
        assert!(
            flags(&copier.stderr).contains(OFlags::NONBLOCK),
            "shared with the copier"
        );
        one.write_all(b"x").unwrap();
        std::fs::remove_file(fifo_path(dir.path(), Stream::Stderr)).unwrap();
        end.open().unwrap();
        drop((copier, one, other));
        let gone = end.open().unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(6), "ENXIO, not {gone}");
    }

    /// Prints on standard output without pause, on a thread of its own, until it is dropped.
    struct ContinuousWriter(
        Option<std::thread::JoinHandle<()>>,
        std::sync::Arc<AtomicBool>,
    );

    impl ContinuousWriter {
        fn on(dir: &Path) -> Self {
            let path = fifo_path(dir, Stream::Stdout);
            let quiet = std::sync::Arc::new(AtomicBool::new(false));
            let told = quiet.clone();
            let lines = "xxxxxxx\n".repeat(CHUNK / 8);
            let thread = std::thread::spawn(move || {
                // Its own reader too, so that it is not killed when the copier ends first.
                let fifo = std::fs::File::options().read(true).write(true).open(path);
                let mut fifo = fifo.unwrap();
                rustix::fs::fcntl_setfl(&fifo, OFlags::NONBLOCK).unwrap();
                while !told.load(Ordering::Relaxed) {
                    let _full = fifo.write(lines.as_bytes());
                }
            });
            Self(Some(thread), quiet)
        }
    }

    impl Drop for ContinuousWriter {
        fn drop(&mut self) {
            self.1.store(true, Ordering::Relaxed);
            let _ended = self.0.take().map(std::thread::JoinHandle::join);
        }
    }

    /// Reads a log from its beginning until there are so many records of standard error.
    fn errors(path: &Path, count: usize) -> Vec<String> {
        let mut log = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        let began = std::time::Instant::now();
        let (mut errors, mut line) = (Vec::new(), String::new());
        while errors.len() < count {
            assert!(began.elapsed() < Duration::from_secs(10), "only {errors:?}");
            log.read_line(&mut line).unwrap();
            if !line.ends_with('\n') {
                std::thread::yield_now();
                continue;
            }
            if let Some((_, error)) = line.trim_end().split_once(" stderr ") {
                errors.push(error.to_owned());
            }
            line.clear();
        }
        errors
    }

    #[test]
    fn a_program_that_never_pauses_starves_neither_the_other_stream_nor_the_stop() {
        let dir = tempfile::tempdir().unwrap();
        let log_dir = dir.path().join("log");
        // What is looked for must not be rotated away before it is found.
        let limits = Limits {
            file_bytes: u64::MAX,
            files: 1,
        };
        let copier = open(dir.path(), me(), &log_dir, limits).unwrap();
        let mut err = std::fs::File::from(copier.stderr_fifo().unwrap().open().unwrap());
        let _writer = ContinuousWriter::on(dir.path());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let task = runtime.spawn(async move { copier.run(stopped).await });
        err.write_all(b"whole\npart").unwrap();
        let path = super::super::rotate::file_path(&log_dir, 0);
        assert_eq!(errors(&path, 2), ["F whole", "P part"]);
        stop.send(()).unwrap();
        let ended =
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), task).await });
        ended.expect("it stops").unwrap().unwrap();
    }
}
