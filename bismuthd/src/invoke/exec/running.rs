//! A program that runs, and its output as an answer's body.
//!
//! ```text
//!  exit?   ── known ──► what the pipe holds at that moment, then Ended
//!  output? ── bytes ──► Printed            ── its end ──► only the exit is waited for
//!  body?   ── broke ──► Broken::Upload
//!  clock?  ── late  ──► Broken::Late, Silent, UploadSilent
//! ```
//!
//! The exit is looked at first, and it ends the output: what a program has printed is in the pipe
//! when it ends, and whatever has the pipe open after that is a left-over that is being killed.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bismuth_http::BodyError;
use bismuth_init::Exit;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::{Instant, Sleep};

use super::feed::Feed;
use crate::invoke::agent::{AgentError, Execution};

/// Read from a program at once: the kernel's pipe buffer.
const CHUNK: usize = 64 * 1024;
/// With less room than this a new buffer is made.
const LEAST: usize = 4 * 1024;

/// The exit code, as a trailer.
const EXIT_CODE: HeaderName = HeaderName::from_static("x-bismuth-exit-code");

/// Why there is no answer, or why it broke off.
#[derive(Debug, Error)]
pub(super) enum Broken {
    #[error("read the program's output")]
    Output(#[source] io::Error),
    #[error("the program printed nothing within {} ms and was killed", .0.as_millis())]
    Late(Duration),
    #[error("nothing went into the program or out of it for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("the request body was silent for {} ms", .0.as_millis())]
    UploadSilent(Duration),
    #[error("the request body could not be read")]
    Upload(#[source] BodyError),
    #[error("the program ended with {0}")]
    Killed(Exit),
    #[error("learn how the program ended")]
    Agent(#[source] AgentError),
}

/// How long a program may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// To its first output, from its start or from the last byte of the body that it took.
    pub(super) first_output: Duration,
    /// In which neither the body nor the output moves.
    pub(super) idle: Duration,
}

/// What a program does next.
pub(super) enum Next {
    Printed(Bytes),
    Ended(Exit),
}

/// A program whose output is being read. Dropping it kills the program.
pub(super) struct Running {
    /// The first to be dropped: the program is to be killed before its input can end.
    execution: Execution,
    output: pipe::Receiver,
    feed: Feed,
    deadlines: Deadlines,
    buffer: BytesMut,
    state: State,
    alarm: Pin<Box<Sleep>>,
    has_printed: bool,
    /// Since when somebody waits, if they do.
    waits_since: Option<Instant>,
}

enum State {
    Printing,
    /// It has closed its output.
    Closed,
    /// It has ended, and so many bytes of what it printed are in the pipe.
    Ended(Result<Exit, AgentError>, u64),
    /// That it has ended was told.
    Told,
}

impl Running {
    pub(super) fn new(
        execution: Execution,
        output: pipe::Receiver,
        feed: Feed,
        deadlines: Deadlines,
    ) -> Self {
        let look_at = feed.last() + deadlines.first_output.min(deadlines.idle);
        Self {
            execution,
            output,
            feed,
            deadlines,
            buffer: BytesMut::new(),
            state: State::Printing,
            alarm: Box::pin(tokio::time::sleep_until(look_at)),
            has_printed: false,
            waits_since: None,
        }
    }

    /// Waits for what it does next. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Next, Broken> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Next, Broken>> {
        let next = self.poll_unclocked(context);
        if next.is_ready() {
            self.waits_since = None;
            self.has_printed = true;
            return next;
        }
        let now = Instant::now();
        let since = *self.waits_since.get_or_insert(now);
        while self.alarm.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let (deadline, late) = self.deadline(since);
            if deadline <= now {
                return Poll::Ready(Err(late));
            }
            // Whose turn it is may change unseen, and with it the deadline.
            let Deadlines { first_output, idle } = self.deadlines;
            let look_at = deadline.min(now + first_output.min(idle));
            self.alarm.as_mut().reset(look_at);
        }
        Poll::Pending
    }

    fn deadline(&self, waits_since: Instant) -> (Instant, Broken) {
        let Deadlines { first_output, idle } = self.deadlines;
        let moved = self.feed.last();
        if self.has_printed {
            // Before that nobody asked for output, so its silence says nothing.
            (moved.max(waits_since) + idle, Broken::Silent(idle))
        } else if self.feed.waits_for_client() {
            (moved + idle, Broken::UploadSilent(idle))
        } else {
            (moved + first_output, Broken::Late(first_output))
        }
    }

    fn poll_unclocked(&mut self, context: &mut Context<'_>) -> Poll<Result<Next, Broken>> {
        if let State::Printing | State::Closed = self.state
            && let Poll::Ready(ended) = self.execution.poll_exited(context)
        {
            let left = rustix::io::ioctl_fionread(&self.output);
            let left = left.map_err(|error| Broken::Output(error.into()))?;
            self.state = State::Ended(ended, left);
        }
        if let State::Ended(..) | State::Told = self.state {
            return Poll::Ready(self.take_rest());
        }
        if let State::Printing = self.state
            && let Poll::Ready(read) = self.poll_output(context)
        {
            match read.map_err(Broken::Output)? {
                0 => self.state = State::Closed,
                _ => return Poll::Ready(Ok(Next::Printed(self.buffer.split().freeze()))),
            }
        }
        let error = ready!(self.feed.poll_failed(context));
        Poll::Ready(Err(Broken::Upload(error)))
    }

    fn poll_output(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() < LEAST {
            self.buffer.reserve(CHUNK);
        }
        pin!(self.output.read_buf(&mut self.buffer)).poll(context)
    }

    /// A left-over that still writes, or reads what is not its own, changes nothing of the bound.
    fn take_rest(&mut self) -> Result<Next, Broken> {
        if let State::Ended(_, left) = &mut self.state
            && *left > 0
        {
            let most = usize::try_from(*left).unwrap_or(CHUNK).min(CHUNK);
            self.buffer.resize(most, 0);
            // Not through the runtime, which may not have been told yet that there is something.
            match rustix::io::read(&self.output, &mut self.buffer[..]) {
                Ok(count @ 1..) => {
                    *left -= count as u64;
                    self.buffer.truncate(count);
                    return Ok(Next::Printed(self.buffer.split().freeze()));
                }
                Ok(0) | Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(Broken::Output(error.into())),
            }
        }
        match std::mem::replace(&mut self.state, State::Told) {
            State::Ended(Ok(exit), _) => Ok(Next::Ended(exit)),
            State::Ended(Err(error), _) => Err(Broken::Agent(error)),
            _ => Err(Broken::Agent(AgentError::HungUp)),
        }
    }
}

/// The program's output as a body. Dropped before its end, it kills the program.
pub(super) struct Output {
    first: Option<Bytes>,
    running: Option<Running>,
    /// Told after one turn, in which hyper flushes what came before the break: an answer of which
    /// nothing arrives looks like a request that was never begun.
    broken: Option<Broken>,
}

impl Output {
    pub(super) fn new(running: Running, first: Bytes) -> Self {
        Self {
            first: Some(first),
            running: Some(running),
            broken: None,
        }
    }
}

impl http_body::Body for Output {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(broken) = this.broken.take() {
            return Poll::Ready(Some(Err(BodyError::Source(Box::new(broken)))));
        }
        let Some(running) = &mut this.running else {
            return Poll::Ready(None);
        };
        let broken = match ready!(running.poll_next(context)) {
            Ok(Next::Printed(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            // Too late for the status; the code is a trailer, and a signal breaks the answer off.
            Ok(Next::Ended(Exit::Code(code))) => {
                this.running = None;
                let trailers = HeaderMap::from_iter([(EXIT_CODE, HeaderValue::from(code))]);
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            Ok(Next::Ended(killed @ Exit::Signal(_))) => Broken::Killed(killed),
            Err(broken) => broken,
        };
        this.running = None;
        this.broken = Some(broken);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use bismuth_http::Body;
    use bismuth_init::Reply;
    use futures_util::stream;
    use http_body_util::StreamBody;
    use rustix::pipe::{PipeFlags, pipe_with};
    use tokio::sync::mpsc;
    use tokio::task::LocalSet;

    const DEADLINES: Deadlines = Deadlines {
        first_output: Duration::from_secs(60),
        idle: Duration::from_secs(100),
    };

    type Pieces = mpsc::UnboundedSender<Result<Bytes, BodyError>>;

    fn channel_body() -> (Pieces, Body) {
        let (pieces, mut received) = mpsc::unbounded_channel();
        let frames = stream::poll_fn(move |context| {
            let piece: Poll<Option<Result<Bytes, BodyError>>> = received.poll_recv(context);
            piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
        });
        (pieces, Body::wrap(StreamBody::new(frames)))
    }

    /// The test's hands on what a program and bismuth-init have.
    struct Program {
        init: UnixStream,
        stdin: File,
        stdout: File,
    }

    impl Program {
        fn start(body: Body) -> (Running, Self) {
            let (stdin, ours_in) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
            let (ours_out, stdout) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
            let (ours, init) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            init.set_nonblocking(true).unwrap();
            let execution = Execution::over(tokio::net::UnixStream::from_std(ours).unwrap());
            let feed = Feed::start(body, Some(pipe::Sender::from_owned_fd(ours_in).unwrap()));
            let output = pipe::Receiver::from_owned_fd(ours_out).unwrap();
            let program = Self {
                init,
                stdin: stdin.into(),
                stdout: stdout.into(),
            };
            (Running::new(execution, output, feed, DEADLINES), program)
        }

        fn ends(&mut self, exit: Exit) {
            let mut bytes = Vec::new();
            Reply::Exited(exit).encode_into(&mut bytes);
            self.init.write_all(&bytes).unwrap();
        }

        /// What can be read of its input now.
        fn input(&mut self) -> Result<String, ErrorKind> {
            let mut buffer = [0; 64];
            let read = self.stdin.read(&mut buffer);
            let read = read.map_err(|error| error.kind())?;
            Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
        }
    }

    async fn locally<T>(work: impl Future<Output = T>) -> T {
        LocalSet::new().run_until(work).await
    }

    /// Lets everything happen that happens without the time passing.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    async fn printed(running: &mut Running) -> Bytes {
        match running.next().await {
            Ok(Next::Printed(bytes)) => bytes,
            Ok(Next::Ended(exit)) => panic!("ended with {exit}"),
            Err(broken) => panic!("{}", bismuth_daemon::exit::chain(&broken)),
        }
    }

    async fn ended(running: &mut Running) -> Exit {
        match running.next().await {
            Ok(Next::Ended(exit)) => exit,
            Ok(Next::Printed(bytes)) => panic!("printed {bytes:?}"),
            Err(broken) => panic!("{}", bismuth_daemon::exit::chain(&broken)),
        }
    }

    async fn broken(running: &mut Running) -> Broken {
        match running.next().await {
            Err(broken) => broken,
            Ok(_) => panic!("it went on"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_exit_ends_the_output_that_a_left_over_holds() {
        locally(async {
            let (mut running, mut program) = Program::start(Body::empty());
            program.ends(Exit::Code(3));
            assert_eq!(ended(&mut running).await, Exit::Code(3));

            let (mut running, mut program) = Program::start(Body::empty());
            program.stdout.write_all(b"ok\n").unwrap();
            program.ends(Exit::Code(0));
            assert_eq!(printed(&mut running).await, "ok\n");
            assert_eq!(ended(&mut running).await, Exit::Code(0));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_before_a_break_has_a_turn_to_go_out() {
        locally(async {
            let (mut running, mut program) = Program::start(Body::empty());
            program.stdout.write_all(b"part").unwrap();
            program.ends(Exit::Signal(9));
            let first = printed(&mut running).await;
            let mut output = pin!(Output::new(running, first));
            let mut seen = Vec::new();
            std::future::poll_fn(|context| {
                let polled = http_body::Body::poll_frame(output.as_mut(), context);
                seen.push(match polled {
                    Poll::Pending => "turn",
                    Poll::Ready(Some(Ok(_))) => "data",
                    Poll::Ready(Some(Err(_))) => "break",
                    Poll::Ready(None) => return Poll::Ready(()),
                });
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            assert_eq!(seen, ["data", "turn", "break"]);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_left_over_that_prints_without_end_does_not_prolong_the_answer() {
        locally(async {
            let (mut running, mut program) = Program::start(Body::empty());
            let fill = |program: &mut Program| {
                let mut bytes = 0;
                while let Ok(count) = program.stdout.write(&[b'x'; 4096]) {
                    bytes += count;
                }
                bytes
            };
            let before = fill(&mut program);
            program.ends(Exit::Code(0));
            let mut taken = 0;
            let exit = loop {
                match running.next().await {
                    Ok(Next::Printed(bytes)) => taken += bytes.len(),
                    Ok(Next::Ended(exit)) => break exit,
                    Err(broken) => panic!("{broken}"),
                }
                assert!(taken <= before, "it goes on");
                fill(&mut program);
            };
            assert_eq!((exit, taken), (Exit::Code(0), before));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_body_is_the_end_of_the_input() {
        locally(async {
            let (_running, mut program) = Program::start(Body::full("whole"));
            settle().await;
            assert_eq!(program.input(), Ok("whole".to_owned()));
            assert_eq!(program.input(), Ok(String::new()));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_body_kills_the_program_before_it_sees_an_end_of_its_input() {
        locally(async {
            for output in ["", "some"] {
                let (pieces, body) = channel_body();
                let (mut running, mut program) = Program::start(body);
                program.stdout.write_all(output.as_bytes()).unwrap();
                if !output.is_empty() {
                    assert_eq!(printed(&mut running).await, output);
                }
                pieces.send(Ok("half".into())).unwrap();
                let silent = BodyError::Silent {
                    after: Duration::ZERO,
                };
                pieces.send(Err(silent)).unwrap();
                let broken = broken(&mut running).await;
                assert!(matches!(broken, Broken::Upload(_)), "{broken}");
                assert_eq!(program.input(), Ok("half".to_owned()));
                assert_eq!(program.input(), Err(ErrorKind::WouldBlock));
                drop(running);
                assert_eq!(program.init.read(&mut [0]).unwrap(), 0, "told to kill it");
                settle().await;
                assert_eq!(program.input(), Err(ErrorKind::WouldBlock), "still alive");
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_is_no_end_of_the_input_either() {
        locally(async {
            let (pieces, body) = channel_body();
            let (running, mut program) = Program::start(body);
            pieces.send(Ok("half".into())).unwrap();
            settle().await;
            drop(running);
            settle().await;
            assert!(pieces.is_closed(), "the body is let go at once");
            assert_eq!(program.input(), Ok("half".to_owned()));
            assert_eq!(program.input(), Err(ErrorKind::WouldBlock));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_may_close_its_input_early() {
        locally(async {
            let (pieces, body) = channel_body();
            let (mut running, mut program) = Program::start(body);
            pieces.send(Ok("more than it wants".into())).unwrap();
            settle().await;
            program.stdin = File::open("/dev/null").unwrap();
            let waited = tokio::time::timeout(DEADLINES.first_output / 2, running.next()).await;
            assert!(waited.is_err(), "it went on");
            assert!(pieces.is_closed(), "the rest is still read");
            program.stdout.write_all(b"enough").unwrap();
            assert_eq!(printed(&mut running).await, "enough");
            program.ends(Exit::Code(0));
            assert_eq!(ended(&mut running).await, Exit::Code(0));
        })
        .await;
    }

    /// Sends a piece each time so much has passed, in which nothing may come out.
    async fn trickle(running: &mut Running, pieces: &Pieces, every: Duration) {
        for _ in 0..5 {
            pieces.send(Ok("piece".into())).unwrap();
            let waited = tokio::time::timeout(every, running.next()).await;
            assert!(waited.is_err(), "it did not wait");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_to_the_first_output_begins_anew_with_each_byte_that_goes_in() {
        locally(async {
            let (pieces, body) = channel_body();
            let (mut running, _program) = Program::start(body);
            trickle(&mut running, &pieces, DEADLINES.first_output * 9 / 10).await;
            drop(pieces);
            settle().await;
            let began = Instant::now();
            let broken = broken(&mut running).await;
            assert!(matches!(broken, Broken::Late(_)), "{broken}");
            assert_eq!(began.elapsed().as_secs(), DEADLINES.first_output.as_secs());
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_takes_nothing_is_late_and_a_client_that_sends_nothing_is_silent() {
        locally(async {
            let (pieces, body) = channel_body();
            let (mut running, _program) = Program::start(body);
            pieces.send(Ok(vec![b'x'; 1 << 20].into())).unwrap();
            settle().await;
            let broken_off = broken(&mut running).await;
            assert!(matches!(broken_off, Broken::Late(_)), "{broken_off}");

            let (pieces, body) = channel_body();
            let (mut running, _program) = Program::start(body);
            pieces.send(Ok("piece".into())).unwrap();
            settle().await;
            let began = Instant::now();
            let broken_off = broken(&mut running).await;
            assert!(
                matches!(broken_off, Broken::UploadSilent(_)),
                "{broken_off}"
            );
            assert_eq!(began.elapsed().as_secs(), DEADLINES.idle.as_secs());
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_silent_when_neither_direction_moves() {
        locally(async {
            let (pieces, body) = channel_body();
            let (mut running, mut program) = Program::start(body);
            program.stdout.write_all(b"begun").unwrap();
            assert_eq!(printed(&mut running).await, "begun");
            trickle(&mut running, &pieces, DEADLINES.idle * 9 / 10).await;
            for _ in 0..3 {
                program.stdout.write_all(b"more").unwrap();
                assert_eq!(printed(&mut running).await, "more");
                let nine_tenths = DEADLINES.idle * 9 / 10;
                let waited = tokio::time::timeout(nine_tenths, running.next()).await;
                assert!(waited.is_err(), "it did not wait");
            }
            let broken = broken(&mut running).await;
            assert!(matches!(broken, Broken::Silent(_)), "{broken}");
        })
        .await;
    }
}
