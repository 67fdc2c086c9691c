//! The process behind containerd's socket: its pid and its descriptor limit.

use std::io;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Containerd;
use crate::error::{Error, Result};

/// What the process that serves the socket gives to the containers it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerProcess {
    /// Its process id, whose mount namespace is what the OCI runtime sees.
    pub pid: u32,
    /// Its hard limit on open files, which shims and containers inherit.
    ///
    /// A container cannot be given more where root lacks `CAP_SYS_RESOURCE` (nested virtual machines, build sandboxes): runc
    /// then fails with "error setting rlimit type 7: operation not permitted". `SpecInput::nofile` should be at most this.
    pub nofile: u64,
}

impl Containerd {
    /// Looks at the process that serves the socket now.
    ///
    /// # Errors
    /// containerd does not listen, or lives in another pid namespace.
    pub async fn server_process(&self) -> Result<ServerProcess> {
        let after = self.deadlines().quick;
        let read = timeout(after, self.inspect_server()).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        read.map_err(|source| Error::InspectPeer {
            socket: self.socket().to_owned(),
            source,
        })
    }

    async fn inspect_server(&self) -> io::Result<ServerProcess> {
        let credentials = UnixStream::connect(self.socket()).await?.peer_cred()?;
        let pid = credentials
            .pid()
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 0)
            .ok_or_else(|| io::Error::other("the peer is in another pid namespace"))?;
        let limits = tokio::fs::read_to_string(format!("/proc/{pid}/limits")).await?;
        let nofile = hard_nofile(&limits)
            .ok_or_else(|| io::Error::other("no open files limit in /proc/PID/limits"))?;
        Ok(ServerProcess { pid, nofile })
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
