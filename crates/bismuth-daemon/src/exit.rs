//! Exit codes, and the one line on standard error that a failure prints.

use std::{error::Error, process::ExitCode};

use bismuth_base::chain;

use crate::StillRunning;

/// It did what it was asked to.
pub const OK: u8 = 0;
/// It could not start, or a task without which it cannot live has ended.
pub const FAILURE: u8 = 1;
/// The command line was wrong (what clap uses).
pub const USAGE: u8 = 2;
/// It was asked to end, but tasks still ran at the deadline and were cut off.
pub const NOT_DRAINED: u8 = 3;
/// A thread without which it cannot live panicked (what Rust uses).
pub const PANIC: u8 = 101;
/// A second signal ended it at once: this plus the signal's number (what shells use).
pub const SIGNAL_BASE: i32 = 128;

/// Runs `body` as the whole program. A failure prints one line on standard error, with every
/// cause: `bismuthd: error: bind 127.0.0.1:8001: the address is in use`.
pub fn main<E>(program: &str, body: impl FnOnce() -> Result<(), E>) -> ExitCode
where
    E: Into<anyhow::Error>,
{
    let Err(error) = body() else {
        return ExitCode::from(OK);
    };
    let error = error.into();
    eprintln!("{}", line(program, error.as_ref()));
    ExitCode::from(code(&error))
}

/// The exit code that fits a failure of `main`.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    if error.is::<StillRunning>() {
        NOT_DRAINED
    } else {
        FAILURE
    }
}

/// `program: error: cause: cause`, in one line whatever the causes contain.
#[must_use]
pub fn line(program: &str, error: &(dyn Error + 'static)) -> String {
    format!("{program}: error: {}", chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_the_program_and_every_cause_once() {
        let error = anyhow::anyhow!("the address\nis in use")
            .context("bind 127.0.0.1:8001")
            .context("start: bind 127.0.0.1:8001");
        assert_eq!(
            line("bismuthd", error.as_ref()),
            "bismuthd: error: start: bind 127.0.0.1:8001: the address is in use"
        );
    }
}
