//! Command-line arguments.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

pub(crate) const USAGE: &str = "usage: echo-server [--port N] [--address IP] [--startup-delay-ms N] \
    [--never-listen] [--exit-at-start CODE] [--ignore-term] [--block-stderr LINE]";

pub(crate) struct Args {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// Time before it listens, or before it exits.
    pub(crate) startup_delay_ms: u64,
    pub(crate) never_listen: bool,
    pub(crate) exit_at_start: Option<u8>,
    pub(crate) ignore_term: bool,
    /// Printed after the standard error has been made to wait, instead of serving.
    pub(crate) block_stderr: Option<String>,
}

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 8000,
            startup_delay_ms: 0,
            never_listen: false,
            exit_at_start: None,
            ignore_term: false,
            block_stderr: None,
        };
        while let Some(flag) = words.next() {
            match flag.as_str() {
                "--address" => args.address = value(&flag, words.next())?,
                "--port" => args.port = value(&flag, words.next())?,
                "--startup-delay-ms" => args.startup_delay_ms = value(&flag, words.next())?,
                "--never-listen" => args.never_listen = true,
                "--exit-at-start" => args.exit_at_start = Some(value(&flag, words.next())?),
                "--ignore-term" => args.ignore_term = true,
                "--block-stderr" => args.block_stderr = Some(value(&flag, words.next())?),
                _ => return Err(format!("unknown argument {flag:?}")),
            }
        }
        Ok(args)
    }
}

fn value<T: FromStr>(flag: &str, word: Option<String>) -> Result<T, String> {
    let word = word.ok_or_else(|| format!("{flag} needs a value"))?;
    word.parse()
        .map_err(|_| format!("{word:?} is no value for {flag}"))
}
