//! Processes that left the group of their execution.
//!
//! A shell with job control, or `timeout`, puts its children into groups of their own; killing
//! the group of the execution misses them. But they stay in its *session*, and when their parent
//! dies they become our children. So after the end of an execution we kill those of our children
//! that are in its session, until there are none.
//!
//! A daemon makes a session of its own and escapes that. It may live for as long as any
//! execution runs (it may belong to that one); when none does, everything is killed.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{self, Read as _, Seek as _},
};

use libc::pid_t;

use crate::sys;

/// What init remembers to find them.
#[derive(Debug)]
pub(super) struct Strays {
    /// The kernel's list of our children, see proc_pid_task(5); absent without /proc.
    children: Option<File>,
    /// Executions that have ended and may have left something behind.
    ended: BTreeSet<pid_t>,
}

impl Strays {
    pub(super) fn new() -> Self {
        let us = std::process::id();
        Self {
            // We are the only thread, so all children are its children.
            children: File::open(format!("/proc/self/task/{us}/children")).ok(),
            ended: BTreeSet::new(),
        }
    }

    pub(super) fn execution_ended(&mut self, leader: pid_t) {
        self.ended.insert(leader);
    }

    /// There is no child left, which is the usual end of a lone execution.
    pub(super) fn all_gone(&mut self) {
        self.ended.clear();
    }

    /// Call it after reaping: orphans have become our children by then.
    pub(super) fn sweep(&mut self, leaders: &HashMap<pid_t, u64>, is_first: bool) {
        if leaders.is_empty() && is_first {
            // All in our PID namespace but us. Those it makes our children are reaped like any.
            sys::kill(-1);
            return;
        }
        if self.ended.is_empty() {
            return;
        }
        let children = self.children().unwrap_or_default();
        let mut left = BTreeSet::new();
        for child in children
            .into_iter()
            .filter(|pid| !leaders.contains_key(pid))
        {
            let session = sys::session_of(child);
            if let Some(session) = session.filter(|session| self.ended.contains(session)) {
                sys::kill(child);
                // What is below it becomes ours when it dies, and is looked for then.
                left.insert(session);
            }
        }
        self.ended = left;
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
