//! The containerd process itself, as seen from the kernel's side of the socket.

use std::io;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Containerd;
use crate::error::{Error, Result};

impl Containerd {
    /// The hard limit on open files of containerd, which its shims and containers inherit.
    ///
    /// A container cannot be given more where root lacks `CAP_SYS_RESOURCE` (nested virtual machines, build sandboxes): runc
    /// then fails with "error setting rlimit type 7: operation not permitted". `SpecInput::nofile` should be at most this.
    ///
    /// # Errors
    /// containerd does not listen, or lives in another pid namespace.
    pub async fn nofile_limit(&self) -> Result<u64> {
        let after = self.deadlines().quick;
        let read = timeout(after, self.read_nofile_limit()).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        read.map_err(|source| Error::InspectPeer {
            socket: self.socket().to_owned(),
            source,
        })
    }

    async fn read_nofile_limit(&self) -> io::Result<u64> {
        let credentials = UnixStream::connect(self.socket()).await?.peer_cred()?;
        let pid = credentials
            .pid()
            .filter(|pid| *pid > 0)
            .ok_or_else(|| io::Error::other("the peer is in another pid namespace"))?;
        let limits = tokio::fs::read_to_string(format!("/proc/{pid}/limits")).await?;
        hard_nofile(&limits)
            .ok_or_else(|| io::Error::other("no open files limit in /proc/PID/limits"))
    }
}

/// The second number of the line `Max open files  soft  hard  files` (proc_pid_limits(5)).
fn hard_nofile(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_is_the_second_number() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max core file size        0                    unlimited            bytes     \n\
                      Max open files            1024                 20000                files     \n";
        assert_eq!(hard_nofile(limits), Some(20_000));
        assert_eq!(
            hard_nofile("Max open files  1  unlimited  files"),
            Some(u64::MAX)
        );
        assert_eq!(hard_nofile(""), None);
    }
}
