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
    fn start(body: Body) -> (RunningProgram, Self) {
        let (stdin, ours_in) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let (ours_out, stdout) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let (ours, init) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        init.set_nonblocking(true).unwrap();
        let execution = Execution::on(tokio::net::UnixStream::from_std(ours).unwrap());
        let stdin_copy =
            StdinCopy::start(body, Some(pipe::Sender::from_owned_fd(ours_in).unwrap()));
        let output = pipe::Receiver::from_owned_fd(ours_out).unwrap();
        let program = Self {
            init,
            stdin: stdin.into(),
            stdout: stdout.into(),
        };
        (
            RunningProgram::new(execution, output, stdin_copy, DEADLINES),
            program,
        )
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

async fn printed(running: &mut RunningProgram) -> Bytes {
    match running.next().await {
        Ok(ProgramEvent::Printed(bytes)) => bytes,
        Ok(ProgramEvent::Ended(exit)) => panic!("ended with {exit}"),
        Err(broken) => panic!("{}", bismuth_base::chain(&broken)),
    }
}

async fn ended(running: &mut RunningProgram) -> Exit {
    match running.next().await {
        Ok(ProgramEvent::Ended(exit)) => exit,
        Ok(ProgramEvent::Printed(bytes)) => panic!("printed {bytes:?}"),
        Err(broken) => panic!("{}", bismuth_base::chain(&broken)),
    }
}

async fn broken(running: &mut RunningProgram) -> ExecError {
    match running.next().await {
        Err(broken) => broken,
        Ok(_) => panic!("it went on"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_ends_with_the_exit_while_a_child_process_holds_the_pipe() {
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
async fn output_before_a_failure_is_flushed_before_the_answer_breaks_off() {
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
async fn a_child_process_that_keeps_printing_does_not_prolong_the_answer() {
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
                Ok(ProgramEvent::Printed(bytes)) => taken += bytes.len(),
                Ok(ProgramEvent::Ended(exit)) => break exit,
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
async fn the_end_of_the_body_closes_the_standard_input() {
    locally(async {
        let (_running, mut program) = Program::start(Body::full("whole"));
        settle().await;
        assert_eq!(program.input(), Ok("whole".to_owned()));
        assert_eq!(program.input(), Ok(String::new()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_kills_the_program_before_its_input_is_closed() {
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
            assert!(matches!(broken, ExecError::Upload(_)), "{broken}");
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
async fn a_client_that_disconnects_does_not_close_the_input_before_the_program_is_dead() {
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
async fn a_program_that_closes_its_input_early_still_answers() {
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
async fn trickle(running: &mut RunningProgram, pieces: &Pieces, every: Duration) {
    for _ in 0..5 {
        pieces.send(Ok("piece".into())).unwrap();
        let waited = tokio::time::timeout(every, running.next()).await;
        assert!(waited.is_err(), "it did not wait");
    }
}

#[tokio::test(start_paused = true)]
async fn each_byte_of_input_restarts_the_time_to_the_first_output() {
    locally(async {
        let (pieces, body) = channel_body();
        let (mut running, _program) = Program::start(body);
        trickle(&mut running, &pieces, DEADLINES.first_output * 9 / 10).await;
        drop(pieces);
        settle().await;
        let began = Instant::now();
        let broken = broken(&mut running).await;
        assert!(
            matches!(broken, ExecError::FirstOutputTimeout(_)),
            "{broken}"
        );
        assert_eq!(began.elapsed().as_secs(), DEADLINES.first_output.as_secs());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_reads_nothing_and_a_client_that_sends_nothing_time_out_differently() {
    locally(async {
        let (pieces, body) = channel_body();
        let (mut running, _program) = Program::start(body);
        pieces.send(Ok(vec![b'x'; 1 << 20].into())).unwrap();
        settle().await;
        let broken_off = broken(&mut running).await;
        assert!(
            matches!(broken_off, ExecError::FirstOutputTimeout(_)),
            "{broken_off}"
        );

        let (pieces, body) = channel_body();
        let (mut running, _program) = Program::start(body);
        pieces.send(Ok("piece".into())).unwrap();
        settle().await;
        let began = Instant::now();
        let broken_off = broken(&mut running).await;
        assert!(
            matches!(broken_off, ExecError::UploadTimeout(_)),
            "{broken_off}"
        );
        assert_eq!(began.elapsed().as_secs(), DEADLINES.idle.as_secs());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_times_out_when_neither_direction_moves() {
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
        assert!(matches!(broken, ExecError::IdleTimeout(_)), "{broken}");
    })
    .await;
}
