//! What the child does between clone and execve, in the parent's memory: system calls and nothing else.
//! No allocation, no lock, no panic.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    os::fd::RawFd,
    ptr,
};

use crate::{
    protocol::{DESCRIPTORS, ExecRequest},
    sys,
};

/// Everything the child needs, prepared by the parent.
pub(super) struct Plan<'a> {
    /// The files to try, in order.
    pub(super) candidates: &'a [CString],
    /// Null-terminated.
    pub(super) argv: &'a [*const c_char],
    /// Null-terminated.
    pub(super) env: &'a [*const c_char],
    pub(super) cwd: &'a CStr,
    /// The standard streams of a program that is started beside others, all above 2. One that init becomes has
    /// init's, and its session.
    pub(super) fds: Option<[RawFd; DESCRIPTORS]>,
    pub(super) descriptor_limit: &'a libc::rlimit,
    /// Whose user and groups to become, if they are not init's.
    pub(super) identity: Option<&'a ExecRequest>,
    /// Written by the child, read by the parent.
    pub(super) failed: Option<Failed>,
}

#[derive(Clone, Copy)]
pub(super) struct Failed {
    pub(super) step: Step,
    pub(super) errno: c_int,
}

#[derive(Clone, Copy)]
pub(super) enum Step {
    Clone,
    Prepare,
    Identity,
    WorkingDirectory,
    /// The file is there, so what is missing is what it names.
    Interpreter {
        candidate: usize,
    },
    Execute {
        candidate: usize,
    },
}

/// The child's whole life, if it fails; else the program's begins in it.
pub(super) extern "C" fn run(plan: *mut c_void) -> c_int {
    // SAFETY: the parent passes a `Plan` that nobody else touches until we are gone.
    let plan = unsafe { &mut *plan.cast::<Plan<'_>>() };
    plan.failed = Some(match prepare(plan) {
        Ok(()) => execute(plan),
        Err(failed) => failed,
    });
    // SAFETY: ends this process without running anything that is the parent's.
    unsafe { libc::_exit(127) }
}

/// Like [`run`], in the calling process itself; returns only if that failed.
pub(super) fn become_program(plan: &Plan<'_>) -> Failed {
    match prepare(plan) {
        Ok(()) => execute(plan),
        Err(failed) => failed,
    }
}

fn prepare(plan: &Plan<'_>) -> Result<(), Failed> {
    // SAFETY: all of these take plain numbers, or pointers to what the parent keeps alive. The
    // raw system calls are used because the library's would change all threads, and in a child
    // that borrows the parent's memory it would take the parent's threads for its own.
    unsafe {
        if let Some(fds) = &plan.fds {
            check(Step::Prepare, libc::setsid())?;
            // See `LeftoverProcesses`.
            let reaper = libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
            check(Step::Prepare, reaper)?;
            for (target, fd) in fds.iter().enumerate() {
                check(Step::Prepare, libc::dup2(*fd, target as c_int))?;
            }
        }
        let limit = ptr::from_ref(plan.descriptor_limit);
        check(Step::Prepare, libc::setrlimit(libc::RLIMIT_NOFILE, limit))?;
        if let Some(who) = plan.identity {
            let (uid, gid, groups) = (who.uid, who.gid, &who.groups);
            let set = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
            check(Step::Identity, set as c_int)?;
            let set = libc::syscall(libc::SYS_setresgid, gid, gid, gid);
            check(Step::Identity, set as c_int)?;
            let set = libc::syscall(libc::SYS_setresuid, uid, uid, uid);
            check(Step::Identity, set as c_int)?;
        }
        check(Step::WorkingDirectory, libc::chdir(plan.cwd.as_ptr()))?;
    }
    sys::unblock_signals();
    Ok(())
}

/// Tries each candidate, as execvp(3) does: what is not there is passed over, what may not be
/// executed is remembered, and anything else is final.
fn execute(plan: &Plan<'_>) -> Failed {
    let mut remembered = Failed {
        step: Step::Execute { candidate: 0 },
        errno: libc::ENOENT,
    };
    for (candidate, path) in plan.candidates.iter().enumerate() {
        let path = path.as_ptr();
        // SAFETY: both arrays are null-terminated and, like the path, kept alive by the parent.
        let errno = unsafe {
            libc::execve(path, plan.argv.as_ptr(), plan.env.as_ptr());
            errno()
        };
        let step = Step::Execute { candidate };
        match errno {
            libc::ENOENT | libc::ENOTDIR => {
                // SAFETY: the path is kept alive by the parent.
                if unsafe { libc::access(path, libc::F_OK) } == 0 {
                    let step = Step::Interpreter { candidate };
                    return Failed { step, errno };
                }
            }
            libc::EACCES => remembered = Failed { step, errno },
            _ => return Failed { step, errno },
        }
    }
    remembered
}

fn check(step: Step, result: c_int) -> Result<(), Failed> {
    if result == -1 {
        return Err(Failed {
            step,
            errno: errno(),
        });
    }
    Ok(())
}

fn errno() -> c_int {
    // SAFETY: gives a valid pointer on every thread; ours is the parent's, who sleeps.
    unsafe { *libc::__errno_location() }
}
