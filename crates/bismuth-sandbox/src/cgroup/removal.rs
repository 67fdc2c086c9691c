//! Removes the cgroups of a container, after killing the processes left in them.
//!
//! ```text
//!   rmdir, deepest first ──all gone──► done
//!        ▲        │ EBUSY
//!        │        ▼
//!        └── thaw, kill, wait for the processes to end ── bound reached ──► every error
//! ```
//!
//! The runtime removes the groups of a container that ended well, so this finds nothing to do
//! most of the time. A group can stay busy for a moment after its last process was reaped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bismuth_base::Backoff;
use rustix::process::Signal;

use super::{Cgroup, Error, is_gone, pids_in, wait_to_poll, write};
use crate::PathError;
use crate::process::{self, Process};
use crate::teardown_errors::{ErrorCollector, TeardownErrors};

/// A group that is busy without processes is released by a kernel worker, soon.
const POLLS: Backoff = Backoff::new(Duration::from_micros(200), Duration::from_millis(20));

impl Cgroup {
    /// Kills every process in the groups, frozen ones included, and removes the directories with
    /// those in them. Returns when they are gone, at most after `bound`. Nothing there is fine.
    ///
    /// # Errors
    /// Every directory that is left, with who is in it, and every process that could not be
    /// killed; all are tried.
    pub fn remove(&self, bound: Duration) -> Result<(), TeardownErrors<Error>> {
        let end = Instant::now() + bound;
        let mut delays = POLLS.delays();
        loop {
            let removed = self.try_remove();
            if removed.is_ok() || Instant::now() >= end {
                return removed;
            }
            let mut errors = ErrorCollector::new();
            if errors.push_err(self.kill_all(end)).is_none() {
                // Not waiting the whole bound for what cannot be killed.
                errors.push_all(self.try_remove());
                return errors.finish();
            }
            wait_to_poll(&mut delays, end);
        }
    }

    fn try_remove(&self) -> Result<(), TeardownErrors<Error>> {
        let mut errors = ErrorCollector::new();
        for directory in self.directories() {
            let groups = errors.push_err(with_descendants(&directory));
            for group in groups.iter().flatten().rev() {
                errors.push_err(remove_group(group));
            }
        }
        errors.finish()
    }

    /// Kills all and waits for them to end, at most until `end`.
    fn kill_all(&self, end: Instant) -> Result<(), Error> {
        self.allow_dying()?;
        if let Some(unified) = self.hierarchy.unified_mount() {
            // All at once, forks included; since Linux 5.14, and not there in the root group.
            let kill = unified.join(&self.relative).join("cgroup.kill");
            if kill.exists() {
                ignore_gone(write(&kill, "1"))?;
            }
        }
        // v1 has nothing of the kind, and on v2 this only waits for those that are dying.
        let mut dying = Vec::new();
        for pid in self.pids()? {
            match Process::open(pid) {
                Ok(process) => dying.push(process),
                Err(process::Error::Open { .. } | process::Error::Read { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // What is listed now and was opened before is still in the group: no pid was reused.
        let listed = self.pids()?;
        dying.retain(|process| listed.contains(&process.pid()));
        for process in &dying {
            process.send_signal(Signal::KILL)?;
        }
        for process in dying {
            process.wait(end.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    /// On v1 a frozen process does not die.
    fn allow_dying(&self) -> Result<(), Error> {
        match self.path("freezer").map(|path| path.join("freezer.state")) {
            Some(state) if state.exists() => ignore_gone(write(&state, "THAWED")),
            _ => Ok(()),
        }
    }
}

fn ignore_gone(written: Result<(), Error>) -> Result<(), Error> {
    match written {
        Err(Error::Write { source, .. }) if is_gone(&source) => Ok(()),
        other => other,
    }
}

fn remove_group(group: &Path) -> Result<(), Error> {
    match fs::remove_dir(group) {
        Ok(()) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(source) => Err(Error::Remove {
            path: group.to_owned(),
            pids: pids_in(group)?,
            source,
        }),
    }
}

/// A group and all groups in it, each before those in it. Empty if it is gone.
pub(super) fn with_descendants(group: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut open = vec![group.to_owned()];
    while let Some(path) = open.pop() {
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => continue,
            Err(source) => return Err(PathError::at("read", &path)(source).into()),
        };
        for entry in entries {
            let directory =
                entry.and_then(|entry| Ok(entry.file_type()?.is_dir().then(|| entry.path())));
            open.extend(directory.map_err(PathError::at("read", &path))?);
        }
        found.push(path);
    }
    Ok(found)
}
