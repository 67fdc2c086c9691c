//! Measures an execution through init beside a bare `posix_spawn` of the same program.
//!
//! ```text
//! RUSTFLAGS='-C target-feature=+crt-static' cargo build -p bismuth-init --bin bismuth-init \
//!     --target x86_64-unknown-linux-gnu --profile init
//! cargo run -p bismuth-init --example spawn_timings -- target/x86_64-unknown-linux-gnu/init/bismuth-init
//! ```
//!
//! Both run `busybox true` on `/dev/null`, turn by turn, one at a time, from start until the end
//! is known. init is process 1 of a PID namespace, as in a container. Prints medians and ratios.
#![allow(unsafe_code)]

use std::{
    error::Error,
    ffi::CString,
    fs::File,
    io::Read as _,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command},
    ptr,
    time::{Duration, Instant},
};

use bismuth_init::{ExecRequest, Exit, Reply, ReplyDecoder, send_request};

const ROUNDS: usize = 3000;
const WARM_UP: usize = 200;
const PROGRAM: &str = "/usr/bin/busybox";

fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args()
        .nth(1)
        .ok_or("usage: timings BISMUTH-INIT")?;
    let directory = tempfile::TempDir::with_prefix("bm-init-")?;
    let socket = directory.path().join("init.sock");
    let mut init = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--kill-child",
            &program,
        ])
        .arg(&socket)
        .spawn()?;
    let measured = measure(&socket, &mut init);
    init.kill()?;
    init.wait()?;
    measured
}

fn measure(socket: &Path, init: &mut Child) -> Result<(), Box<dyn Error>> {
    while UnixStream::connect(socket).is_err() {
        if let Some(status) = init.try_wait()? {
            return Err(format!("init ended: {status}").into());
        }
        std::thread::yield_now();
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let env: Vec<String> = (0..30)
        .map(|n| format!("HTTP_X_HEADER_{n}=some value"))
        .collect();
    let request = ExecRequest::new(["busybox", "true"], env_with_path(&env), "/", (0, 0))?;
    let bare_env: Vec<CString> = env
        .iter()
        .map(|e| CString::new(e.as_str()))
        .collect::<Result<_, _>>()?;

    let (mut bare, mut through, mut spawned) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS + WARM_UP {
        let one = posix_spawn(&bare_env)?;
        let (until_spawned, two) = through_init(socket, &request, null.as_fd())?;
        if round >= WARM_UP {
            bare.push(one);
            spawned.push(until_spawned);
            through.push(two);
        }
    }
    let base = median(&mut bare);
    println!("{ROUNDS} rounds of `busybox true`, medians:");
    println!("bare posix_spawn and wait  {base:>10.1?}  1.00");
    for (name, times) in [
        ("init, until spawned", &mut spawned),
        ("init, until exited", &mut through),
    ] {
        let time = median(times);
        let ratio = time.as_secs_f64() / base.as_secs_f64();
        println!("{name:<25}  {time:>10.1?}  {ratio:.2}");
    }
    Ok(())
}

fn env_with_path(env: &[String]) -> Vec<String> {
    [env, &["PATH=/usr/bin:/bin".to_owned()]].concat()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn through_init(
    socket: &Path,
    request: &ExecRequest,
    null: BorrowedFd<'_>,
) -> Result<(Duration, Duration), Box<dyn Error>> {
    let start = Instant::now();
    let mut stream = UnixStream::connect(socket)?;
    send_request(&stream, request, [null; 3])?;
    let (mut decoder, mut buffer) = (ReplyDecoder::new(), [0; 256]);
    let mut until_spawned = Duration::ZERO;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Err("init is gone".into()),
            count => decoder.push(&buffer[..count]),
        }
        while let Some(reply) = decoder.next_reply()? {
            match reply {
                Reply::Hello { .. } => {}
                Reply::Spawned { .. } => until_spawned = start.elapsed(),
                Reply::Exited(Exit::Code(0)) => return Ok((until_spawned, start.elapsed())),
                other => return Err(format!("{other:?}").into()),
            }
        }
    }
}

fn posix_spawn(env: &[CString]) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let path = CString::new(PROGRAM)?;
    let argv = [
        c"busybox".as_ptr().cast_mut(),
        c"true".as_ptr().cast_mut(),
        ptr::null_mut(),
    ];
    let ends = [ptr::null_mut()];
    let env: Vec<_> = env
        .iter()
        .map(|e| e.as_ptr().cast_mut())
        .chain(ends)
        .collect();
    let (mut pid, mut status) = (0, 0);
    // SAFETY: all strings and arrays live through the call, the arrays are null-terminated, and
    // no attributes are given.
    let result = unsafe {
        libc::posix_spawn(
            &mut pid,
            path.as_ptr(),
            ptr::null(),
            ptr::null(),
            argv.as_ptr(),
            env.as_ptr(),
        )
    };
    if result != 0 {
        return Err(std::io::Error::from_raw_os_error(result).into());
    }
    // SAFETY: waits for the child that was just started.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    if waited != pid || status != 0 {
        return Err("busybox true failed".into());
    }
    Ok(start.elapsed())
}
