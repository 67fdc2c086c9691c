//! Reserves port numbers across test processes.
//!
//! Binding to port 0 and closing again leaves a gap in which another test, or an outgoing connection,
//! takes the same number; and a server that is restarted must find its port free. So ports come from
//! below the kernel's ephemeral range, and each is held by a lock on a file for as long as the process lives.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::run;

/// Below 32768, where Linux starts handing out ephemeral ports, and above what services usually take.
const RANGE: std::ops::Range<u16> = 21_000..31_000;

static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A TCP port that is free on every local address, reserved until this process ends.
/// Fails when the lock directory cannot be used, or every port of the range is taken.
pub fn reserve() -> Result<u16> {
    let locks = run::root().join("ports");
    fs::create_dir_all(&locks).with_context(|| format!("create {}", locks.display()))?;
    let span = u32::from(RANGE.end - RANGE.start);
    let start = std::process::id().wrapping_mul(37) % span;
    for step in 0..span {
        let port = RANGE.start + u16::try_from((start + step) % span)?;
        let path = locks.join(port.to_string());
        let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            HELD.lock()
                .map_err(|_| anyhow::anyhow!("the list of held ports is poisoned"))?
                .push(lock);
            return Ok(port);
        }
    }
    bail!("no free port in {RANGE:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_reservations_differ_though_neither_is_bound() {
        assert_ne!(reserve().unwrap(), reserve().unwrap());
    }
}
