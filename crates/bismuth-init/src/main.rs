//! The `bismuth-init` program: process 1 of an exec container.
//!
//! `bismuth-init [SOCKET]` listens there, by default at `/.bismuth/run/init.sock`.

use std::{error::Error, ffi::OsString, path::PathBuf, process::ExitCode};

use bismuth_init::{SOCKET_PATH, init::Init};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let socket = match (arguments.next(), arguments.next()) {
        (None, _) => PathBuf::from(SOCKET_PATH),
        (Some(socket), None) if !is_flag(&socket) => PathBuf::from(socket),
        _ => {
            eprintln!("usage: bismuth-init [SOCKET]");
            return ExitCode::from(2);
        }
    };
    match Init::start(&socket).and_then(Init::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}"));
            eprintln!("bismuth-init: error: {error}{}", cause.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn is_flag(argument: &OsString) -> bool {
    argument.as_encoded_bytes().starts_with(b"-")
}
