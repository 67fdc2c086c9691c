//! The `bismuthctl` program: parse, run, say in one line what went wrong.

use std::process::ExitCode;

use bismuthctl::{Args, run};
use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse(), &mut std::io::stdout()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(line) = error.line() {
                eprintln!("{line}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
