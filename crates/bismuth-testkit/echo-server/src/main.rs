//! The function that tests deploy: a small static HTTP server that can misbehave on request.
//!
//! A package of its own, so that linking it statically builds a handful of libraries and not the testkit's.
//! `cargo xtask build` puts it at `target/<profile>/static/echo-server`.

mod answers;
mod args;
mod routes;
mod streams;
mod upgrade;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Args;

// One thread serves as fast as a test or a benchmark can ask, and keeps the process small.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(reason) => {
            eprintln!("echo-server: {reason}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("echo-server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> std::io::Result<ExitCode> {
    if let Some(line) = args.block_stderr {
        return block_stderr(&line);
    }
    // The init of a container is sent no signal that it does not handle, except SIGKILL.
    let mut terminate = signal(SignalKind::terminate())?;
    println!("echo-server: pid {} starts", std::process::id());
    tokio::time::sleep(Duration::from_millis(args.startup_delay_ms)).await;
    if let Some(code) = args.exit_at_start {
        eprintln!("echo-server: told to exit with {code}");
        return Ok(ExitCode::from(code));
    }
    let served = async {
        if args.never_listen {
            return std::future::pending().await;
        }
        serve(TcpListener::bind((args.address, args.port)).await?).await
    };
    tokio::select! {
        ended = served => ended.map(|()| ExitCode::SUCCESS),
        () = asked_to_end(&mut terminate, args.ignore_term) => Ok(ExitCode::SUCCESS),
    }
}

/// Clears `O_NONBLOCK` of what the standard error is, for everybody who shares it.
fn block_stderr(line: &str) -> std::io::Result<ExitCode> {
    let stderr = std::io::stderr().as_fd().try_clone_to_owned()?;
    pipe::Sender::from_owned_fd(stderr)?.into_blocking_fd()?;
    eprintln!("{line}");
    Ok(ExitCode::SUCCESS)
}

async fn asked_to_end(terminate: &mut tokio::signal::unix::Signal, ignore: bool) {
    while terminate.recv().await.is_some() {
        if !ignore {
            return;
        }
        eprintln!("echo-server: told to end, and told not to");
    }
}

async fn serve(listener: TcpListener) -> std::io::Result<()> {
    println!("echo-server: listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service_fn(routes::answer))
                .with_upgrades();
            // A test that breaks a connection off looks at its own end of it.
            if let Err(error) = connection.await {
                eprintln!("echo-server: connection: {error}");
            }
        });
    }
}
