//! The wire protocol between the host and init, byte by byte. Pure.
//!
//! ```text
//!   host ──► request: header(12) body(≤ 2 MiB), with three descriptors on its first byte
//!   host ◄── Hello, then one of  SpawnFailed ─ end
//!                                Spawned ─ Exited ─ end
//!
//!   host ──► inject:  header(12) body(≤ 2 MiB), without descriptors
//!   host ◄── Hello, then one of  SpawnFailed ─ end
//!                                Injected ─ end           it goes on
//!                                end                       it has become the program
//! ```
//!
//! All numbers are little-endian.
//!
//! | request header | |
//! |---|---|
//! | 4 bytes | `BsmI` |
//! | u16 | version of the body, today [`VERSION`] |
//! | u16 | 0 |
//! | u32 | length of the body |
//!
//! | body, version 1 | |
//! |---|---|
//! | u32, u32 | uid, gid |
//! | list of u32 | supplementary groups |
//! | string | working directory |
//! | list of strings | argv |
//! | list of strings | environment, `NAME=value` |
//!
//! | body, version 2: an injection | |
//! |---|---|
//! | list of (string, bytes) | files: name in [`SECRETS_DIR`](crate::SECRETS_DIR), content |
//! | u8 | 0; or 1 if a body of version 1 follows: the program to become |
//!
//! | body, version 3: an injection | |
//! |---|---|
//! | | as version 2, but the u8 may also be 2, and this follows: |
//! | list of strings | `NAME=value`, for the environment of every program from now on |
//!
//! A list is its u32 count and its members; a string its u32 length and its bytes, none of them 0; bytes
//! are the same, of any value.
//!
//! | reply | |
//! |---|---|
//! | u8 | kind: 1 Hello, 2 Spawned, 3 SpawnFailed, 4 Exited, 5 Injected |
//! | u16 | length of what follows |
//! | Hello | u16: the newest request version this init understands; it understands all older ones |
//! | Spawned | u32: process id in the container |
//! | SpawnFailed | u8 kind, i32 errno, text |
//! | Exited | u8: 0 code, 1 signal; i32 |
//!
//! A newer bismuthd that adopts a container of an older one reads `Hello` first and sends no
//! request newer than that.

use std::ffi::{CString, NulError};

mod inject;
mod reply;
mod wire;

pub use inject::{AfterInject, InjectRequest, SecretFile};
pub use reply::{Exit, FailureKind, Reply, ReplyDecoder};
use wire::Reader;

/// The newest request version this code understands.
pub const VERSION: u16 = 3;
/// The version whose body is an [`ExecRequest`]: what every init understands.
const EXEC_VERSION: u16 = 1;
/// The version whose body is an [`InjectRequest`].
const INJECT_VERSION: u16 = 2;
/// The version whose body is an [`InjectRequest`] that may have variables.
const VARIABLES_VERSION: u16 = 3;
/// The bytes of a request before its body.
pub const HEADER_BYTES: usize = 12;
/// The longest body of a request. Linux takes at most 2 MiB of arguments and environment under
/// the usual 8 MiB stack limit (execve(2), "Limits on size of arguments and environment").
pub const MAX_BODY_BYTES: usize = 2 << 20;
/// How many descriptors travel with a request: standard input, output and error.
pub const DESCRIPTORS: usize = 3;

const MAGIC: [u8; 4] = *b"BsmI";

/// One execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// The program and its arguments. A program without a slash is looked for in the `PATH` of
    /// `env`, in the container.
    pub argv: Vec<CString>,
    /// The environment, each `NAME=value`; besides it a program has the variables that were injected.
    pub env: Vec<CString>,
    /// The working directory.
    pub cwd: CString,
    /// The user to run as.
    pub uid: u32,
    /// The group to run as.
    pub gid: u32,
    /// The supplementary groups to run with.
    pub groups: Vec<u32>,
}

/// Why a request cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// C strings end at the first zero byte.
    #[error("an argument, environment entry or path contains a zero byte")]
    ZeroByte(#[from] NulError),
    /// There is no program to run.
    #[error("the argument list is empty")]
    NoProgram,
    /// More than the kernel would take.
    #[error("the request is {bytes} bytes long, and {MAX_BODY_BYTES} is the limit")]
    TooLong {
        /// The length of its body.
        bytes: usize,
    },
    /// A descriptor could not be duplicated, or the socket not be written.
    #[error("send the request to init")]
    Send(#[source] std::io::Error),
}

/// Why bytes are not a message of this protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Not a request at all.
    #[error("the request does not start with {MAGIC:02x?}")]
    Magic,
    /// From a newer host.
    #[error("the request has version {version}, and this init knows 1 to {VERSION}")]
    Version {
        /// What was sent.
        version: u16,
    },
    /// More than anybody may send.
    #[error("the message is {bytes} bytes long, and {limit} is the limit")]
    TooLong {
        /// What was announced.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A field ends after the message, or the message after its last field.
    #[error("the message does not have the length that its fields say")]
    Length,
    /// A string with a zero byte in it.
    #[error("a string contains a zero byte")]
    ZeroByte,
    /// There is no program to run.
    #[error("the argument list is empty")]
    NoProgram,
    /// A reply of a kind that this version does not have.
    #[error("the reply has the unknown kind {kind}")]
    Kind {
        /// What was sent.
        kind: u8,
    },
    /// Not the descriptors that belong to it.
    #[error("{count} descriptors came with the request, not {expected}")]
    Descriptors {
        /// How many.
        count: usize,
        /// How many belong to it.
        expected: usize,
    },
    /// A file whose name is no name.
    #[error("{name:?} cannot be the name of a file in {}", crate::SECRETS_DIR)]
    FileName {
        /// What was sent.
        name: CString,
    },
    /// More after the request was complete.
    #[error("bytes follow the request")]
    Trailing,
}

impl ExecRequest {
    /// A request without supplementary groups.
    ///
    /// # Errors
    /// When a string contains a zero byte.
    pub fn new<A: Into<Vec<u8>>, E: Into<Vec<u8>>>(
        argv: impl IntoIterator<Item = A>,
        env: impl IntoIterator<Item = E>,
        cwd: impl Into<Vec<u8>>,
        (uid, gid): (u32, u32),
    ) -> Result<Self, RequestError> {
        Ok(Self {
            argv: argv
                .into_iter()
                .map(CString::new)
                .collect::<Result<_, NulError>>()?,
            env: env
                .into_iter()
                .map(CString::new)
                .collect::<Result<_, NulError>>()?,
            cwd: CString::new(cwd)?,
            uid,
            gid,
            groups: Vec::new(),
        })
    }

    /// Header and body as they travel.
    ///
    /// # Errors
    /// When there is no program, or the body would be longer than [`MAX_BODY_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, RequestError> {
        if self.argv.is_empty() {
            return Err(RequestError::NoProgram);
        }
        let mut out = header(EXEC_VERSION, self.body_bytes())?;
        self.encode_body(&mut out);
        Ok(out)
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        out.extend(self.uid.to_le_bytes());
        out.extend(self.gid.to_le_bytes());
        wire::put_u32(out, self.groups.len());
        for group in &self.groups {
            out.extend(group.to_le_bytes());
        }
        wire::put_string(out, &self.cwd);
        for list in [&self.argv, &self.env] {
            wire::put_u32(out, list.len());
            for string in list {
                wire::put_string(out, string);
            }
        }
    }

    fn body_bytes(&self) -> usize {
        let strings = self.argv.iter().chain(&self.env).chain([&self.cwd]);
        let strings: usize = strings.map(|string| 4 + string.as_bytes().len()).sum();
        // uid, gid and three counts.
        5 * 4 + 4 * self.groups.len() + strings
    }

    /// Takes all that is left.
    fn decode_body(mut reader: Reader<'_>) -> Result<Self, ProtocolError> {
        let (uid, gid) = (reader.u32()?, reader.u32()?);
        let groups = reader.list(Reader::u32)?;
        let cwd = reader.string()?;
        let argv = reader.list(Reader::string)?;
        let env = reader.list(Reader::string)?;
        reader.end()?;
        if argv.is_empty() {
            return Err(ProtocolError::NoProgram);
        }
        Ok(Self {
            argv,
            env,
            cwd,
            uid,
            gid,
            groups,
        })
    }
}

/// What the host asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Run a program, beside others.
    Spawn(ExecRequest),
    /// Take secrets, and perhaps become the program that wants them.
    Inject(InjectRequest),
}

impl Request {
    /// Header and body as they travel.
    ///
    /// # Errors
    /// When there is no program, or the body would be longer than [`MAX_BODY_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, RequestError> {
        match self {
            Self::Spawn(request) => request.encode(),
            Self::Inject(injection) => injection.encode(),
        }
    }
}

/// The bytes before a body, with room for it.
fn header(version: u16, body: usize) -> Result<Vec<u8>, RequestError> {
    if body > MAX_BODY_BYTES {
        return Err(RequestError::TooLong { bytes: body });
    }
    let mut out = Vec::with_capacity(HEADER_BYTES + body);
    out.extend(MAGIC);
    out.extend(version.to_le_bytes());
    out.extend([0; 2]);
    wire::put_u32(&mut out, body);
    Ok(out)
}

/// Puts a request together from the pieces in which it arrives.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    received: Vec<u8>,
}

impl RequestDecoder {
    /// Takes the next piece; gives the request when it is complete.
    ///
    /// # Errors
    /// When it is not a request, as soon as that is known. The decoder is of no use then.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Request>, ProtocolError> {
        self.received.extend_from_slice(piece);
        let Some((header, body)) = self.received.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let (version, length) = read_header(header)?;
        match body.len().cmp(&length) {
            std::cmp::Ordering::Less => Ok(None),
            std::cmp::Ordering::Greater => Err(ProtocolError::Trailing),
            std::cmp::Ordering::Equal => {
                let reader = Reader::new(body);
                let request = if version == EXEC_VERSION {
                    Request::Spawn(ExecRequest::decode_body(reader)?)
                } else {
                    Request::Inject(InjectRequest::decode_body(version, reader)?)
                };
                Ok(Some(request))
            }
        }
    }
}

/// The version and the length of the body.
fn read_header(header: &[u8; HEADER_BYTES]) -> Result<(u16, usize), ProtocolError> {
    let mut reader = Reader::new(header);
    if reader.array()? != MAGIC {
        return Err(ProtocolError::Magic);
    }
    let version = u16::from_le_bytes(reader.array()?);
    let _reserved: [u8; 2] = reader.array()?;
    if !(1..=VERSION).contains(&version) {
        return Err(ProtocolError::Version { version });
    }
    let bytes = reader.u32()? as usize;
    if bytes > MAX_BODY_BYTES {
        let limit = MAX_BODY_BYTES;
        return Err(ProtocolError::TooLong { bytes, limit });
    }
    Ok((version, bytes))
}
