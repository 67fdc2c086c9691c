//! Process 1 of exec containers, and the protocol it speaks with the host.
//!
//! ```text
//!        host (bismuthd)            │            container
//!                                   │
//!   connect ── request + 3 fds ─────┼──► bismuth-init (PID 1) ── clone, execve ──► program
//!           ◄─ Hello, Spawned ──────┼───     │                     stdin, stdout, stderr
//!           ◄─ Exited ──────────────┼─── reap ◄───────────────────── ends, or is killed
//!   close ──────────────────────────┼──► kills the program and its group
//! ```
//!
//! One connection is one execution. The three descriptors that travel with the request become
//! the program's standard input, output and error, so its data never passes through this process.
//!
//! - [`protocol`]: what travels. Pure; decoding arbitrary bytes neither panics nor allocates more
//!   than it was given.
//! - [`host`]: the side of bismuthd. Blocking, or step by step under any runtime.
//! - [`init`]: the side in the container; the program `bismuth-init` is little more.
//!
//! A *secret injection* is the other kind of request: secrets as files, and secrets for environments. Those of a server come with
//! the program itself, which init then becomes; those of executions init keeps in its memory and gives to each, so that they
//! are the same as long as the container lives, whatever becomes of the host's side. So they are neither in the container's
//! spec nor on a disk.
//!
//! # Who runs as whom
//!
//! `bismuth-init` runs **as the function's own user**, without any capability, from its first
//! instruction. Dropping privileges per execution would need `CAP_SETUID` in the container for as
//! long as it lives; this way there is none to abuse, and nothing to drop between `clone` and
//! `execve`. (A request that names another user is honoured if init happens to have the right.)
//!
//! What a function could do to a process 1 of its own user, and why it is no harm:
//!
//! | attempt | answer |
//! |---|---|
//! | signals | the kernel discards those that process 1 has no handler for; SIGTERM counts only when its sender is outside the PID namespace |
//! | ptrace, `/proc/1/mem`, `/proc/1/fd` | `PR_SET_DUMPABLE` is 0, so they need a capability the function has not |
//! | connecting to the socket | `SO_PEERCRED` gives process id 0 for a peer outside the PID namespace, and for no other: a function cannot forge that (user ids would not do: the host's root shows as the overflow id) |
//! | replacing the socket | the host takes the directory away as soon as it is connected: [`host::seal`] |
//! | exhausting processes, memory, descriptors | answered as [`FailureKind::Exhausted`]; and whatever it does not let init answer, the host's deadline does |
//!
//! The last line is the general one: a function can only ever stop its own container, and the
//! host treats a container whose init does not answer as failed.
#![allow(unsafe_code)]

pub mod host;
pub mod init;
pub mod protocol;
mod scm;
mod sys;

pub use host::{OutgoingRequest, send_request};
pub use protocol::{
    AfterInject, ExecRequest, Exit, FailureKind, InjectRequest, Reply, ReplyDecoder, Request,
    SecretFile,
};

/// Where the program is mounted in an exec container.
pub const PROGRAM_PATH: &str = "/.bismuth/init";
/// Where it listens in there.
pub const SOCKET_PATH: &str = "/.bismuth/run/init.sock";
/// Where the files of an injection are written: a filesystem in memory, the function's own.
pub const SECRETS_DIR: &str = "/run/secrets";
/// The name of the socket in the directory that the host mounts.
pub const SOCKET_NAME: &str = "init.sock";
