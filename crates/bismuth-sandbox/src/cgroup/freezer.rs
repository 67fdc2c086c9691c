//! Freezes and thaws a cgroup.
//!
//! ```text
//!   v1  freezer.state:  THAWED ──write FROZEN──► FREEZING ──► FROZEN    nothing announces it
//!   v2  cgroup.freeze:  0 ──write 1──►  cgroup.events: frozen 0 ──► 1   poll(2) announces it
//! ```
//!
//! A frozen process uses no processor time, keeps its memory and its connections, and cannot be
//! killed on v1 until it is thawed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bismuth_base::Backoff;
use rustix::event::PollFlags;

use super::{Cgroup, Error, Version, read, value_of, wait_to_poll, write};
use crate::PathError;
use crate::process::poll_readable;

/// From 20 µs: freezing a handful of sleeping processes takes about as long.
const POLLS: Backoff = Backoff::new(Duration::from_micros(20), Duration::from_millis(2));
/// On v1 a group may hang in FREEZING while a process forks or vforks; thawing and freezing it
/// again gets it out (as runc does, libcontainer/cgroups/fs/freezer.go). With these polls it is tried every 20 ms.
const POLLS_BEFORE_THAW: u32 = 24;

impl Cgroup {
    /// Freezes every process in the group and returns when all are, at most after `bound`.
    ///
    /// # Errors
    /// [`Error::StateTimeout`] (the group is thawed again then), and as [`Error`] says.
    pub fn freeze(&self, bound: Duration) -> Result<(), Error> {
        let frozen = match self.version() {
            Version::V2 => self.set_v2(true, bound),
            Version::V1 | Version::Hybrid => self.freeze_v1(bound),
        };
        if frozen.is_err()
            && let Err(undo) = self.thaw(bound)
        {
            tracing::error!(group = %self.relative.display(), error = %undo, "group stays frozen in part");
        }
        frozen
    }

    /// Lets every process in the group run, and returns when all can, at most after `bound`.
    ///
    /// # Errors
    /// [`Error::StateTimeout`], and as [`Error`] says.
    pub fn thaw(&self, bound: Duration) -> Result<(), Error> {
        match self.version() {
            Version::V2 => self.set_v2(false, bound),
            // Takes effect within the write.
            Version::V1 | Version::Hybrid => {
                write(&self.file("freezer", "freezer.state")?, "THAWED")
            }
        }
    }

    /// Whether every process in the group is frozen.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        match self.version() {
            Version::V2 => Ok(self.read_key("freezer", "cgroup.events", "frozen")? == 1),
            Version::V1 | Version::Hybrid => {
                Ok(read(&self.file("freezer", "freezer.state")?)?.trim() == "FROZEN")
            }
        }
    }

    fn freeze_v1(&self, bound: Duration) -> Result<(), Error> {
        let state = self.file("freezer", "freezer.state")?;
        let end = Instant::now() + bound;
        let mut delays = POLLS.delays();
        for poll in 1.. {
            // Writing again also catches processes that were forked meanwhile.
            write(&state, "FROZEN")?;
            if self.is_frozen()? {
                return Ok(());
            }
            if Instant::now() >= end {
                break;
            }
            if poll % POLLS_BEFORE_THAW == 0 {
                write(&state, "THAWED")?;
            }
            wait_to_poll(&mut delays, end);
        }
        Err(state_timeout(&state, "frozen", bound))
    }

    fn set_v2(&self, frozen: bool, bound: Duration) -> Result<(), Error> {
        let (value, wanted) = if frozen {
            ("1", "frozen")
        } else {
            ("0", "thawed")
        };
        let switch = self.file("freezer", "cgroup.freeze")?;
        let path = self.file("freezer", "cgroup.events")?;
        let failed = PathError::at::<io::Error>("read", &path);
        // Opened before the write, so that no change is missed.
        let events = File::open(&path).map_err(&failed)?;
        write(&switch, value)?;
        let end = Instant::now() + bound;
        loop {
            let mut text = [0; 256];
            let length = events.read_at(&mut text, 0).map_err(&failed)?;
            let text = String::from_utf8_lossy(&text[..length]);
            if value_of(&text, "frozen") == Some(u64::from(frozen)) {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(state_timeout(&switch, wanted, bound));
            }
            poll_readable(events.as_fd(), PollFlags::PRI, left).map_err(&failed)?;
        }
    }
}

fn state_timeout(file: &Path, wanted: &'static str, after: Duration) -> Error {
    Error::StateTimeout {
        path: file.parent().unwrap_or(file).to_owned(),
        wanted,
        after,
    }
}
