//! The `bismuthctl` program: parses arguments, runs the command, prints an error in one line.

use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;

use bismuthctl::{Args, Terminal, run};
use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match stdout().is_terminal() && !args.raw {
        true => run(args, &mut Terminal::new(stdout())).await,
        false => run(args, &mut stdout()).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(line) = error.line() {
                eprintln!("{line}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
