//! As process 1: isolation from the function, takeover, injected secrets.

use std::{
    ffi::CStr,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
};

use bismuth_init::{
    AfterInject, ExecRequest, Exit, FailureKind, InjectRequest, Reply, ReplyDecoder, SOCKET_NAME,
    SecretFile, host,
};

use crate::harness::{ENV, Execution, Init, eventually, signal};

#[test]
fn a_function_cannot_connect_to_the_socket() {
    let init = Init::as_pid_1();
    let this = std::env::current_exe().expect("it runs");
    let socket = format!("INIT_SOCKET={}", init.socket().display());
    let argv = [
        this.to_str().expect("text"),
        "--ignored",
        "--exact",
        "namespace::connects_from_inside",
        "--nocapture",
    ];
    let request = ExecRequest::new(argv, [socket.as_str(), ENV[0]], "/", (0, 0));
    let done = Execution::start(init.connect(), &request.expect("no zero bytes")).finish();
    assert!(done.stdout.contains("heard 0 bytes"), "{done:?}");
    init.assert_alive();
}

/// Not a test: what runs inside the container.
#[test]
#[ignore = "it is the process that a test starts in the container"]
fn connects_from_inside() {
    let socket = std::env::var_os("INIT_SOCKET").expect("the test sets it");
    let mut stream = UnixStream::connect(PathBuf::from(socket)).expect("init listens");
    let mut heard = Vec::new();
    // A refused connection may be reset.
    let _closed = stream.read_to_end(&mut heard);
    println!("heard {} bytes", heard.len());
}

#[test]
fn a_function_can_neither_signal_nor_trace_nor_look_into_init() {
    let init = Init::as_pid_1();
    let done = init
        .shell("for s in TERM KILL INT HUP STOP SEGV CHLD; do kill -$s 1; done")
        .finish();
    assert_eq!(done.exit, Exit::Code(0));
    for path in ["fd/7", "mem", "environ", "maps"] {
        let path = format!("/proc/1/{path}");
        let done = init.exec(&["busybox", "cat", &path]).finish();
        assert_eq!(done.exit, Exit::Code(1), "{done:?}");
        assert!(done.stderr.contains("Permission denied"), "{done:?}");
    }
    init.assert_alive();
}

#[test]
fn a_sealed_directory_keeps_the_socket_from_being_replaced() {
    let init = Init::as_other_user(":");
    let directory = init.run_directory();
    host::seal(&directory).expect("we are root");
    let attack = format!(
        "cd {0}; rm -f {0}/{SOCKET_NAME}; mv {0}/{SOCKET_NAME} {0}/x; echo > {0}/y",
        directory.display()
    );
    let done = init.shell(&attack).finish();
    assert_eq!(done.stdout, "");
    let left = fs::read_dir(&directory).expect("we are root");
    let left: Vec<_> = left
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, [SOCKET_NAME]);
    init.assert_alive();
}

#[test]
fn sigterm_from_outside_ends_it_and_everything_with_it() {
    for mut init in [Init::plain(), Init::as_pid_1()] {
        let mut program = init.shell("busybox sleep 1000 & echo up; wait");
        program.spawned();
        assert_eq!(program.read_line(), "up");
        signal("TERM", init.pid());
        assert_eq!(init.wait().code(), Some(0));
        assert_eq!(program.rest(), "");
        assert_eq!(program.reply(), None);
    }
}

#[test]
fn a_second_start_takes_the_socket_over() {
    let init = Init::plain();
    let old = init.pid();
    let mut second = Command::new(crate::harness::PROGRAM)
        .arg(init.socket())
        .spawn()
        .expect("it starts");
    // The socket is replaced in one step, so there is always somebody.
    eventually("the second answers", || {
        let mut program = init.shell("echo $PPID");
        program.spawned();
        (program.read_line() != old.to_string()).then_some(())
    });
    second.kill().expect("it runs");
    second.wait().expect("it is ours");
}

#[test]
fn the_static_program_runs_in_an_empty_root() {
    let (init, _root) = Init::in_empty_root();
    let request = ExecRequest::new(["busybox", "ls", "/"], ["PATH=/"], "/", (0, 0));
    let request = request.expect("no zero bytes");
    let done = Execution::start(init.connect(), &request).finish();
    assert_eq!(done.stdout, "busybox\ninit\nrun\n");

    // There is no /proc to find leftovers in; the end of the last execution finds them all the same.
    let daemon = "busybox setsid busybox sleep 1000 & echo up";
    let request = ExecRequest::new(["busybox", "sh", "-c", daemon], ["PATH=/"], "/", (0, 0));
    let mut program = Execution::start(init.connect(), &request.expect("no zero bytes"));
    program.spawned();
    assert_eq!(program.rest(), "up\n");
}

#[test]
fn an_injection_writes_files_and_init_executes_the_program_in_it() {
    let (init, root) = Init::in_empty_root();
    let files = |content: &[u8]| {
        vec![SecretFile {
            name: c"key".into(),
            content: content.to_vec(),
        }]
    };
    let only_files = InjectRequest {
        files: files(b"first"),
        then: AfterInject::Serve(Vec::new()),
    };
    assert_eq!(inject(&init, &only_files), [Reply::Injected]);
    assert_eq!(
        fs::read(root.join("run/secrets/key")).expect("it was written"),
        b"first"
    );

    // What cannot be executed leaves init as it was.
    let nothing = ExecRequest::new(["/nope"], ENV, "/", (0, 0)).expect("no zero bytes");
    let bad = InjectRequest {
        files: Vec::new(),
        then: AfterInject::Become(nothing),
    };
    let refused = inject(&init, &bad);
    assert!(
        matches!(
            &refused[..],
            [Reply::SpawnFailed {
                kind: FailureKind::ProgramNotFound,
                ..
            }]
        ),
        "{refused:?}"
    );

    let script = "echo \"$$ $TOKEN $(busybox cat /run/secrets/key)\" > /run/out.new; \
                  busybox mv /run/out.new /run/out; exec busybox sleep 1000";
    let env = ["PATH=/", "TOKEN=canary"];
    let program = ExecRequest::new(["busybox", "sh", "-c", script], env, "/", (0, 0));
    let whole = InjectRequest {
        files: files(b"second"),
        then: AfterInject::Become(program.expect("no zero bytes")),
    };
    assert_eq!(inject(&init, &whole), []);
    let out = eventually("the program has run", || {
        fs::read_to_string(root.join("run/out")).ok()
    });
    assert_eq!(out, "1 canary second\n");
}

#[test]
fn injected_variables_are_in_the_environment_of_every_execution_only() {
    let init = Init::as_pid_1();
    let variables = |lines: &[&CStr]| InjectRequest {
        files: Vec::new(),
        then: AfterInject::Serve(lines.iter().map(|line| (*line).into()).collect()),
    };
    let first = variables(&[c"TOKEN=canary", c"OTHER=1"]);
    assert_eq!(inject(&init, &first), [Reply::Injected]);
    for _ in 0..2 {
        let mut request = init.request(&["busybox", "sh", "-c", "echo $TOKEN $OTHER $THEIRS"]);
        request
            .env
            .extend([c"TOKEN=theirs".into(), c"THEIRS=2".into()]);
        let done = Execution::start(init.connect(), &request).finish();
        assert_eq!(done.stdout, "canary 1 2\n");
    }
    let environ = fs::read(format!("/proc/{}/environ", init.pid())).expect("we are root");
    assert!(!String::from_utf8_lossy(&environ).contains("canary"));

    // The next injection replaces the variables.
    let second = variables(&[c"TOKEN=new"]);
    assert_eq!(inject(&init, &second), [Reply::Injected]);
    let done = init.shell("echo $TOKEN$OTHER").finish();
    assert_eq!(done.stdout, "new\n");
}

/// What init says after its greeting, until it closes the connection.
fn inject(init: &Init, injection: &InjectRequest) -> Vec<Reply> {
    let mut stream = init.connect();
    let message = injection.encode().expect("it is short");
    stream.write_all(&message).expect("init listens");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("init closes it");
    let mut decoder = ReplyDecoder::new();
    decoder.push(&said);
    let replies = std::iter::from_fn(|| decoder.next_reply().expect("replies"));
    let mut replies: Vec<_> = replies.collect();
    assert!(matches!(replies.remove(0), Reply::Hello { .. }));
    replies
}
