//! The replies of init.

use super::{ProtocolError, wire::Reader};

const KIND_HELLO: u8 = 1;
const KIND_SPAWNED: u8 = 2;
const KIND_SPAWN_FAILED: u8 = 3;
const KIND_EXITED: u8 = 4;
const KIND_INJECTED: u8 = 5;
/// Kind and length.
const HEAD_BYTES: usize = 3;
/// The longest reply after its head: a failure with a path of `PATH_MAX` (4096) and some words.
const MAX_REPLY_BYTES: usize = 5 * 1024;
/// What is left of it for the text of a failure, after its kind and errno.
const MAX_TEXT_BYTES: usize = MAX_REPLY_BYTES - 5;

/// What init answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The first on every connection.
    Hello {
        /// The newest request version this init understands.
        version: u16,
    },
    /// The program runs.
    Spawned {
        /// Its process id in the container.
        pid: u32,
    },
    /// The program does not run; this is the last reply.
    SpawnFailed {
        /// What kind of failure.
        kind: FailureKind,
        /// What the kernel said, as a number of errno(3); 0 if it was not asked.
        errno: i32,
        /// The act and the object, for people: `/bin/nope: no such program`.
        what: String,
    },
    /// The program has ended, and its group was killed; this is the last reply.
    Exited(Exit),
    /// The files are written; this is the last reply.
    Injected,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It said so itself.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Whether it ended itself with code 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Why a program does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureKind {
    /// Something else; the text says what.
    Other = 0,
    /// There is no such program, in `PATH` or at the path given.
    ProgramNotFound = 1,
    /// It is there but cannot be executed.
    NotExecutable = 2,
    /// It is there, but the interpreter or loader it names is not.
    BadInterpreter = 3,
    /// The working directory cannot be entered.
    WorkingDirectory = 4,
    /// init may not become that user or group.
    Identity = 5,
    /// Arguments and environment are longer than the kernel takes.
    ArgumentsTooLong = 6,
    /// Processes, memory or descriptors have run out; another time it may work.
    Exhausted = 7,
    /// What was sent is not a request of this protocol.
    Protocol = 8,
}

impl FailureKind {
    /// Kinds of a later version count as [`FailureKind::Other`].
    fn from_byte(byte: u8) -> Self {
        [
            Self::ProgramNotFound,
            Self::NotExecutable,
            Self::BadInterpreter,
            Self::WorkingDirectory,
            Self::Identity,
            Self::ArgumentsTooLong,
            Self::Exhausted,
            Self::Protocol,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
        .unwrap_or(Self::Other)
    }
}

impl Reply {
    /// Appends it as it travels. A text that is too long is cut.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { version } => frame(out, KIND_HELLO, &[&version.to_le_bytes()]),
            Self::Spawned { pid } => frame(out, KIND_SPAWNED, &[&pid.to_le_bytes()]),
            Self::SpawnFailed { kind, errno, what } => {
                let text = &what[..what.floor_char_boundary(MAX_TEXT_BYTES)];
                let errno = errno.to_le_bytes();
                frame(
                    out,
                    KIND_SPAWN_FAILED,
                    &[&[*kind as u8], &errno, text.as_bytes()],
                );
            }
            Self::Injected => frame(out, KIND_INJECTED, &[]),
            Self::Exited(exit) => {
                let (tag, number) = match exit {
                    Exit::Code(code) => (0, code),
                    Exit::Signal(signal) => (1, signal),
                };
                frame(out, KIND_EXITED, &[&[tag], &number.to_le_bytes()]);
            }
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let reply = match kind {
            KIND_HELLO => {
                let version = u16::from_le_bytes(reader.array()?);
                Self::Hello { version }
            }
            KIND_SPAWNED => Self::Spawned { pid: reader.u32()? },
            KIND_SPAWN_FAILED => {
                let [kind] = reader.array()?;
                Self::SpawnFailed {
                    kind: FailureKind::from_byte(kind),
                    errno: reader.i32()?,
                    what: String::from_utf8_lossy(reader.rest()).into_owned(),
                }
            }
            KIND_EXITED => {
                let [tag] = reader.array()?;
                let number = reader.i32()?;
                Self::Exited(match tag {
                    0 => Exit::Code(number),
                    1 => Exit::Signal(number),
                    kind => return Err(ProtocolError::Kind { kind }),
                })
            }
            KIND_INJECTED => Self::Injected,
            kind => return Err(ProtocolError::Kind { kind }),
        };
        reader.end()?;
        Ok(reply)
    }
}

/// Callers keep the parts within [`MAX_REPLY_BYTES`].
fn frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend((length as u16).to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Takes replies out of the pieces in which they arrive.
///
/// Push what was read, then take replies until there is none; so it never holds more than one
/// piece and the beginning of a reply.
#[derive(Debug, Default)]
pub struct ReplyDecoder {
    received: Vec<u8>,
    taken: usize,
}

impl ReplyDecoder {
    /// A decoder at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what was read.
    pub fn push(&mut self, piece: &[u8]) {
        self.received.drain(..self.taken);
        self.taken = 0;
        self.received.extend_from_slice(piece);
    }

    /// The next reply, if it is complete.
    ///
    /// # Errors
    /// When the bytes are no reply. The connection is of no use then.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, ProtocolError> {
        let rest = &self.received[self.taken..];
        let Some((&[kind, low, high], after)) = rest.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let bytes = usize::from(u16::from_le_bytes([low, high]));
        if bytes > MAX_REPLY_BYTES {
            let limit = MAX_REPLY_BYTES;
            return Err(ProtocolError::TooLong { bytes, limit });
        }
        let Some(payload) = after.get(..bytes) else {
            return Ok(None);
        };
        let reply = Reply::decode(kind, payload)?;
        self.taken += HEAD_BYTES + bytes;
        Ok(Some(reply))
    }
}
