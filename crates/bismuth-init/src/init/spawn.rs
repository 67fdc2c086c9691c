//! Starts a program: clone and execve.
//!
//! ```text
//!   parent: candidates from PATH, pointer arrays ── clone(VM | VFORK) ── sleeps ── reads `failed`
//!   child:  setsid, subreaper, fds 0 1 2, limits, user, cwd, signals ── execve ×n ─┬─ the program
//!                                                                       └─ failed = …; _exit
//! ```
//!
//! This is what posix_spawn does, written out because posix_spawn cannot say *which* step failed
//! (a missing program, interpreter and directory are all `ENOENT`), lacks the change of user, and
//! would have to be told each inherited limit. The child borrows the parent's memory and the
//! parent sleeps until it is done with it, so nothing is copied, however big the parent; in
//! return the child may only make system calls.
//!
//! The parent sleeps through `execve`, so a slow disk delays other starts, too. A stopped child
//! (a function may SIGSTOP processes of its own user) delays them until the host's deadline.

mod child;
mod environment;
mod program;

use std::{
    ffi::{CStr, CString, c_char, c_void},
    io,
    os::fd::OwnedFd,
    ptr::{self, NonNull},
};

use libc::pid_t;

use crate::{
    protocol::{DESCRIPTORS, ExecRequest, FailureKind, Reply},
    sys,
};
use child::{Failed, Plan, Step};
use program::Program;

/// The child makes a handful of system calls with small frames; glibc's posix_spawn takes 32 KiB.
const STACK_BYTES: usize = 64 * 1024;

/// Starts programs.
#[derive(Debug)]
pub(super) struct Spawner {
    stack: Stack,
    inherited: Inherited,
    /// Injected, for the environment of every program.
    variables: Vec<CString>,
}

/// What programs inherit.
#[derive(Debug)]
struct Inherited {
    /// What it was; ours is raised.
    descriptor_limit: libc::rlimit,
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
}

impl Spawner {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: these take nothing and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let inherited = Inherited {
            descriptor_limit: sys::raise_descriptor_limit()?,
            uid,
            gid,
            groups: sys::groups()?,
        };
        Ok(Self {
            stack: Stack::new()?,
            inherited,
            variables: Vec::new(),
        })
    }

    /// Has every program from now on find these variables in its environment.
    pub(super) fn set_variables(&mut self, variables: Vec<CString>) {
        self.variables = variables;
    }

    /// Starts the program; it has been executed, not merely forked, when this returns.
    pub(super) fn spawn(
        &mut self,
        request: &ExecRequest,
        fds: [OwnedFd; DESCRIPTORS],
    ) -> Result<pid_t, Reply> {
        let env = environment::of(&self.variables, &request.env);
        let program = Program::of(request, &env);
        let (argv, env) = (pointers(&request.argv), pointers(&env));
        let fds = std::array::from_fn(|index| sys::raw(&fds)[index]);
        let mut plan = Plan {
            fds: Some(fds),
            ..self.inherited.plan(request, &program, &argv, &env)
        };
        let pid = clone_into(&mut self.stack, &mut plan).map_err(|error| Failed {
            step: Step::Clone,
            errno: error.raw_os_error().unwrap_or(0),
        });
        let outcome = match (pid, plan.failed) {
            (Ok(pid), None) => return Ok(pid),
            (Ok(pid), Some(failed)) => {
                // It has ended already; if it cannot be reaped here the loop will do it.
                let _reaped = sys::reap(pid);
                failed
            }
            (Err(failed), _) => failed,
        };
        Err(spawn_failure(outcome, request, &program))
    }

    /// Turns this process into the program. Returns only if that failed, and says why.
    pub(super) fn become_program(&self, request: &ExecRequest) -> Reply {
        // Its environment is whole: injected variables are for executions.
        let env = environment::of(&[], &request.env);
        let program = Program::of(request, &env);
        let (argv, env) = (pointers(&request.argv), pointers(&env));
        let plan = self.inherited.plan(request, &program, &argv, &env);
        spawn_failure(child::become_program(&plan), request, &program)
    }
}

impl Inherited {
    fn plan<'a>(
        &'a self,
        request: &'a ExecRequest,
        program: &'a Program,
        argv: &'a [*const c_char],
        env: &'a [*const c_char],
    ) -> Plan<'a> {
        let same_user = (request.uid, request.gid) == (self.uid, self.gid);
        let same_groups = request.groups.is_empty() || request.groups == self.groups;
        Plan {
            candidates: &program.candidates,
            argv,
            env,
            cwd: &request.cwd,
            fds: None,
            descriptor_limit: &self.descriptor_limit,
            identity: (!same_user || !same_groups).then_some(request),
            failed: None,
        }
    }
}

fn clone_into(stack: &mut Stack, plan: &mut Plan<'_>) -> io::Result<pid_t> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let plan = ptr::from_mut(plan).cast::<c_void>();
    // SAFETY: with CLONE_VFORK we sleep until the child has executed or exited, so `plan` and
    // the stack outlive its use of them, and nobody else runs on this memory: we are the only
    // thread and have no signal handlers. `child::run` only makes system calls and writes to
    // `plan.failed`.
    sys::check(unsafe { libc::clone(child::run, stack.top(), flags, plan) })
}

/// A null-terminated array, as execve wants it; valid as long as `strings`.
fn pointers<S: AsRef<CStr>>(strings: &[S]) -> Vec<*const c_char> {
    let ends = [ptr::null()];
    let strings = strings.iter().map(|s| s.as_ref().as_ptr());
    strings.chain(ends).collect()
}

fn spawn_failure(failed: Failed, request: &ExecRequest, program: &Program) -> Reply {
    let name = request.argv.first().map(|name| name.to_string_lossy());
    let name = name.unwrap_or_default();
    let error = io::Error::from_raw_os_error(failed.errno);
    let (kind, what) = match failed.step {
        Step::Clone => (FailureKind::Exhausted, format!("start a process: {error}")),
        Step::Prepare => (FailureKind::Other, format!("prepare the process: {error}")),
        Step::Identity => {
            let ExecRequest { uid, gid, .. } = request;
            (
                FailureKind::Identity,
                format!("become user {uid}:{gid}: {error}"),
            )
        }
        Step::WorkingDirectory => {
            let cwd = request.cwd.to_string_lossy();
            (
                FailureKind::WorkingDirectory,
                format!("working directory {cwd}: {error}"),
            )
        }
        Step::Interpreter { candidate } => {
            let path = program.name_of(candidate);
            let what = format!("{path}: the interpreter or loader that it names is missing");
            (FailureKind::BadInterpreter, what)
        }
        Step::Execute { candidate } => match failed.errno {
            libc::ENOENT | libc::ENOTDIR => {
                let what = match &program.searched {
                    Some(path) => format!("{name}: not found in PATH ({path})"),
                    None => format!("{name}: no such program"),
                };
                (FailureKind::ProgramNotFound, what)
            }
            libc::EACCES | libc::EISDIR => {
                let path = program.name_of(candidate);
                (
                    FailureKind::NotExecutable,
                    format!("{path}: not executable"),
                )
            }
            libc::ENOEXEC => {
                let path = program.name_of(candidate);
                let what =
                    format!("{path}: neither a program for this machine nor a script with #!");
                (FailureKind::NotExecutable, what)
            }
            libc::E2BIG => {
                let what = format!("{name}: arguments and environment are too long");
                (FailureKind::ArgumentsTooLong, what)
            }
            libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE => {
                (FailureKind::Exhausted, format!("execute {name}: {error}"))
            }
            _ => (FailureKind::Other, format!("execute {name}: {error}")),
        },
    };
    Reply::SpawnFailed {
        kind,
        errno: failed.errno,
        what,
    }
}

/// The stack on which a child lives between clone and execve, with a page below it that faults.
#[derive(Debug)]
struct Stack {
    bottom: NonNull<c_void>,
}

/// Enough for every page size Linux has on our architectures (4, 16 and 64 KiB).
const GUARD_BYTES: usize = 64 * 1024;

impl Stack {
    fn new() -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: asks for new memory anywhere; then forbids the lowest part of just that.
        unsafe {
            let size = GUARD_BYTES + STACK_BYTES;
            let bottom = libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0);
            if bottom == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let bottom = NonNull::new(bottom).ok_or(io::ErrorKind::OutOfMemory)?;
            sys::check(libc::mprotect(
                bottom.as_ptr(),
                GUARD_BYTES,
                libc::PROT_NONE,
            ))?;
            Ok(Self { bottom })
        }
    }

    /// Stacks grow downwards on our architectures; mmap aligns it well.
    fn top(&mut self) -> *mut c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.bottom.as_ptr().byte_add(GUARD_BYTES + STACK_BYTES) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size, and no child lives on it: `clone_into` waits.
        unsafe { libc::munmap(self.bottom.as_ptr(), GUARD_BYTES + STACK_BYTES) };
    }
}
