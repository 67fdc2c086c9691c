//! Kills processes that an execution leaves running when it ends.
//!
//! ```text
//!   init ─┬─ leader ─┬─ child ─── …        a leader is the reaper of its orphans: whatever an
//!         │          └─ orphan              execution starts, daemons too, stays below it
//!         ├─ leader ─── …
//!         └─ child of a leader that ended   hence a leftover: killed, and then what was below it
//! ```
//!
//! Killing the group of an execution misses what has left it: children of a shell with job
//! control, or of `timeout`; and daemons, which make a session of their own. But each leader is a
//! *child subreaper* (prctl(2), `PR_SET_CHILD_SUBREAPER`; it outlasts execve), so orphans become
//! its children while it lives, and ours when it has died. So every child of ours that is no
//! leader belongs to an execution that has ended, however many others run.
//!
//! Three limits. A program that takes the attribute off itself gives us its orphans while it
//! lives, and they are killed early. Leftovers that fork faster than they are killed one by one are
//! only surely ended when no execution runs, by one signal for all. And without /proc leftovers are
//! not seen before that either.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Seek as _},
};

use libc::pid_t;

use crate::sys;

/// Finds and kills them.
#[derive(Debug)]
pub(super) struct LeftoverProcesses {
    /// The kernel's list of our children, see proc_pid_task(5); absent without /proc.
    children: Option<File>,
}

impl LeftoverProcesses {
    pub(super) fn new() -> Self {
        let us = std::process::id();
        Self {
            // We are the only thread, so all children are its children.
            children: File::open(format!("/proc/self/task/{us}/children")).ok(),
        }
    }

    /// Call it after reaping: orphans have become our children by then. Those that they leave
    /// behind in turn are found when their death is reaped.
    pub(super) fn kill(&mut self, leaders: &HashMap<pid_t, u64>, is_pid_1: bool) {
        if leaders.is_empty() && is_pid_1 {
            // All in our PID namespace but us. Those it makes our children are reaped like any.
            sys::kill(-1);
            return;
        }
        let children = self.children().unwrap_or_default();
        children
            .into_iter()
            .filter(|pid| !leaders.contains_key(pid))
            .for_each(sys::kill);
    }

    fn children(&mut self) -> io::Result<Vec<pid_t>> {
        let Some(list) = &mut self.children else {
            return Ok(Vec::new());
        };
        let mut text = String::new();
        list.rewind()?;
        list.read_to_string(&mut text)?;
        Ok(text
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect())
    }
}
