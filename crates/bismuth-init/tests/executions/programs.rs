//! What a started program is given, and how its end is reported.

use std::{os::fd::AsFd as _, process::Command};

use bismuth_init::protocol::VERSION;
use bismuth_init::{
    ExecRequest, Exit, FailureKind, OutgoingRequest, Reply, ReplyDecoder, protocol::MAX_BODY_BYTES,
};

use crate::harness::{ENV, Execution, Init, OTHER_UID, next_reply, signal, write_script};

#[test]
fn a_program_gets_exactly_its_arguments_its_environment_and_its_directory() {
    let init = Init::plain();
    let env = ["B=2", "PATH=/bin:/usr/bin", "EMPTY=", "A=ü b\nc"];
    let argv = ["busybox", "cat", "/proc/self/environ", "/proc/self/cmdline"];
    let request = ExecRequest::new(argv, env, "/usr", (0, 0)).expect("no zero bytes");
    let done = Execution::start(init.connect(), &request).finish();
    let expected: String = env.iter().chain(&argv).map(|s| format!("{s}\0")).collect();
    assert_eq!(done.stdout, expected);

    let request = ExecRequest::new(["busybox", "pwd"], ENV, "/usr", (0, 0));
    let done = Execution::start(init.connect(), &request.expect("no zero bytes")).finish();
    assert_eq!(done.stdout, "/usr\n");
}

#[test]
fn a_program_inherits_three_descriptors_and_nothing_else_of_init() {
    let init = Init::plain();
    let _others: Vec<_> = (0..5).map(|_| init.exec(&["busybox", "cat"])).collect();
    // `ls` itself has the directory open as 3.
    let done = init.exec(&["busybox", "ls", "/proc/self/fd"]).finish();
    assert_eq!(done.stdout, "0\n1\n2\n3\n");

    let of = |what: &str| ["busybox", "grep", "-E", what, "/proc/self/status"].map(str::to_owned);
    let signals = of("^Sig(Blk|Ign|Cgt)");
    let signals = signals.each_ref().map(String::as_str);
    let done = init.exec(&signals).finish();
    let masks: Vec<_> = done.stdout.split_whitespace().collect();
    let zero = "0000000000000000";
    assert_eq!(masks, ["SigBlk:", zero, "SigIgn:", zero, "SigCgt:", zero]);

    let limit = ["busybox", "grep", "open files", "/proc/self/limits"];
    let ours = Command::new("busybox").args(&limit[1..]).output();
    let ours = String::from_utf8(ours.expect("busybox is there").stdout);
    assert_eq!(init.exec(&limit).finish().stdout, ours.expect("text"));
}

#[test]
fn a_program_leads_a_session_and_a_group_of_its_own() {
    let init = Init::plain();
    let mut program = init.exec(&["busybox", "cut", "-d ", "-f5,6", "/proc/self/stat"]);
    let pid = program.spawned();
    assert_eq!(program.rest(), format!("{pid} {pid}\n"));
}

#[test]
fn output_streams_out_while_input_streams_in() {
    let init = Init::plain();
    let mut cat = init.exec(&["busybox", "cat"]);
    cat.spawned();
    for number in 0..20 {
        cat.write_stdin(&format!("line {number}\n"));
        assert_eq!(cat.read_line(), format!("line {number}"));
    }
    cat.stdin = None;
    assert_eq!(cat.rest(), "");
    assert_eq!(cat.exited(), Exit::Code(0));
}

#[test]
fn the_exit_code_or_the_signal_is_reported_and_stderr_is_separate() {
    let init = Init::plain();
    let done = init.shell("echo out; echo err >&2; exit 7").finish();
    assert_eq!(done.exit, Exit::Code(7));
    assert_eq!(
        (done.stdout.as_str(), done.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(init.shell("kill -SEGV $$").finish().exit, Exit::Signal(11));
    assert_eq!(init.shell("kill -KILL $$").finish().exit, Exit::Signal(9));
}

#[test]
fn an_environment_of_a_mebibyte_arrives_also_through_a_socket_that_does_not_block() {
    let init = Init::plain();
    let big: Vec<String> = (0..9)
        .map(|n| format!("V{n}={}", "x".repeat(120_000)))
        .collect();
    let env = big.iter().map(String::as_str).chain(ENV);
    let request = ExecRequest::new(["busybox", "env"], env, "/", (0, 0)).expect("no zero bytes");
    let expected: usize = big.iter().map(|entry| entry.len() + 1).sum::<usize>() + ENV[0].len() + 1;
    let done = Execution::start(init.connect(), &request).finish();
    assert_eq!(done.stdout.len(), expected);

    let mut stream = init.connect();
    stream.set_nonblocking(true).expect("ours");
    let null = std::fs::File::open("/dev/null").expect("it is there");
    let mut outgoing = OutgoingRequest::new(&request, [null.as_fd(); 3]).expect("short enough");
    // A mebibyte is more than a socket holds, so it is full while init does not read.
    signal("STOP", init.pid());
    let full = outgoing.advance(stream.as_fd());
    assert_eq!(
        full.map_err(|e| e.kind()),
        Err(std::io::ErrorKind::WouldBlock)
    );
    signal("CONT", init.pid());
    while let Err(error) = outgoing.advance(stream.as_fd()) {
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        std::thread::yield_now();
    }
    stream.set_nonblocking(false).expect("ours");
    let mut decoder = ReplyDecoder::new();
    let last = std::iter::from_fn(|| next_reply(&mut stream, &mut decoder)).last();
    assert!(matches!(last, Some(Reply::Exited(_))), "{last:?}");
}

#[test]
fn what_keeps_a_program_from_running_is_named() {
    let init = Init::plain();
    let directory = tempfile::TempDir::with_prefix("bm-init-").expect("a directory");
    let path = |name: &str| directory.path().join(name);
    write_script(&path("plain"), "text", 0o644);
    write_script(&path("lost"), "#!/no/such/shell\n", 0o755);
    write_script(&path("noise"), "no magic number\n", 0o755);
    let cases = [
        (
            "nope",
            FailureKind::ProgramNotFound,
            2,
            "nope: not found in PATH (/usr/bin:/bin)",
        ),
        (
            "/bin/nope",
            FailureKind::ProgramNotFound,
            2,
            "/bin/nope: no such program",
        ),
        (
            "/etc/passwd/x",
            FailureKind::ProgramNotFound,
            2,
            "/etc/passwd/x: no such program",
        ),
        ("", FailureKind::ProgramNotFound, 2, ": no such program"),
        (
            "plain",
            FailureKind::NotExecutable,
            13,
            "plain: not executable",
        ),
        (".", FailureKind::NotExecutable, 13, ".: not executable"),
        (
            "noise",
            FailureKind::NotExecutable,
            8,
            "noise: neither a program",
        ),
        (
            "lost",
            FailureKind::BadInterpreter,
            2,
            "lost: the interpreter or loader that it names",
        ),
    ];
    for (program, kind, errno, text) in cases {
        let file = path(program);
        let file = file.to_str().expect("text");
        let here = ["plain", ".", "noise", "lost"].contains(&program);
        let mut failed = init.exec(&[if here { file } else { program }]);
        let (got_kind, got_errno, what) = failed.failed();
        assert_eq!((got_kind, got_errno), (kind, errno), "{program}: {what}");
        assert!(what.contains(text), "{what:?} does not say {text:?}");
    }
    init.assert_alive();
}

#[test]
fn a_missing_directory_is_told_from_a_missing_program() {
    let init = Init::plain();
    let request = ExecRequest::new(["busybox", "pwd"], ENV, "/nowhere", (0, 0));
    let mut failed = Execution::start(init.connect(), &request.expect("no zero bytes"));
    let (kind, errno, what) = failed.failed();
    assert_eq!((kind, errno), (FailureKind::WorkingDirectory, 2));
    assert!(
        what.starts_with("working directory /nowhere: No such file"),
        "{what}"
    );
}

#[test]
fn arguments_that_the_kernel_does_not_take_are_named() {
    let init = Init::plain();
    // One string may have 128 KiB (MAX_ARG_STRLEN), whatever the whole may have.
    let long = "x".repeat(MAX_BODY_BYTES / 2);
    let (kind, errno, what) = init.exec(&["busybox", "echo", &long]).failed();
    assert_eq!((kind, errno), (FailureKind::ArgumentsTooLong, 7), "{what}");
}

#[test]
fn a_request_may_name_another_user_if_init_may_become_it() {
    let init = Init::plain();
    let mut request = init.request(&["busybox", "sh", "-c", "id -u; id -g; id -G"]);
    (request.uid, request.gid) = (OTHER_UID, OTHER_UID + 1);
    request.groups = vec![4, 5];
    let done = Execution::start(init.connect(), &request).finish();
    let (uid, gid) = (OTHER_UID, OTHER_UID + 1);
    assert_eq!(done.stdout, format!("{uid}\n{gid}\n{gid} 4 5\n"));
    init.assert_alive();

    let other_user = Init::as_other_user(":");
    assert_eq!(
        other_user.exec(&["busybox", "id", "-u"]).finish().stdout,
        format!("{uid}\n")
    );
    let mut request = other_user.request(&["busybox", "id"]);
    request.uid = 0;
    let (kind, errno, what) = Execution::start(other_user.connect(), &request).failed();
    assert_eq!((kind, errno), (FailureKind::Identity, 1), "{what}");
}

#[test]
fn init_says_its_version_before_anything_is_asked() {
    let init = Init::plain();
    let mut stream = init.connect();
    let reply = next_reply(&mut stream, &mut ReplyDecoder::new());
    assert_eq!(reply, Some(Reply::Hello { version: VERSION }));
}
