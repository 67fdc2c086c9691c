//! The messages of the handover protocol and their encoding. Pure.
//!
//! All numbers are little-endian. A packet is
//!
//! | | |
//! |---|---|
//! | u8 | version of the packet, today [`VERSION`] |
//! | u8 | kind |
//! | u32 | number of the request, repeated in its answers |
//! | … | fields of the kind |
//!
//! | request | fields | descriptors |
//! |---|---|---|
//! | 1 Hello | u8 newest version understood, text: node | |
//! | 2 List | | |
//! | 3 Attach | container, function: 16 bytes each; text: group; quotas; 32 bytes: digest of the token | the listening socket |
//! | 4 Detach | container | |
//! | 5 Duplicate | container | |
//! | 6 Secret | text: group, text: name | |
//!
//! | answer | fields | descriptors |
//! |---|---|---|
//! | 65 Welcome | u8 newest version understood | |
//! | 66 HeldSockets | u8: 1 if more follow; for each: container, digest | |
//! | 67 Done | | |
//! | 68 Listener | | the listening socket |
//! | 69 Absent | | |
//! | 70 Secret | the rest: its bytes | |
//! | 71 Refused | text: why | |
//!
//! A text is its u16 length and UTF-8; quotas are a byte of bits, one for each limit that is set in the order of
//! [`ServiceQuotas`], and a u64 for each bit.
//!
//! `Hello` and `Welcome` keep version 1 for ever, so that two programs of different ages can agree on the older one's version.

use std::fmt;

use bismuth_model::{ContainerId, FunctionId, ServiceGroup, ServiceQuotas};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, Zeroizing};

mod wire;

use wire::{Reader, Writer};

/// The newest version this code understands.
pub const VERSION: u8 = 1;
/// The longest secret that travels.
pub const MAX_SECRET_BYTES: usize = 64 << 10;
/// The longest packet: a secret, or a thousand held sockets, and what stands before them.
pub const MAX_PACKET_BYTES: usize = MAX_SECRET_BYTES + 1024;
/// How many held sockets one packet lists.
pub const HELD_PER_PACKET: usize = 1024;
/// Bytes of the longest name of a secret.
pub const MAX_SECRET_NAME_BYTES: usize = 512;

const MAX_NODE_BYTES: usize = 64;
/// A refusal is for a log line.
const MAX_REASON_BYTES: usize = 1024;

/// Why bytes are not a message of this protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum DecodeError {
    #[error("the message has version {version}, and 1 to {VERSION} are understood here")]
    Version { version: u8 },
    /// A kind that this version does not have, or that the other side sends.
    #[error("the message has the unknown kind {kind}")]
    Kind { kind: u8 },
    /// A field ends after the message, or the message after its last field.
    #[error("the message does not have the length that its fields say")]
    Length,
    #[error("the {field} of the message is invalid")]
    Field { field: &'static str },
}

/// A message with the number of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered<T> {
    /// Chosen by who asks.
    pub number: u32,
    /// What is asked or answered.
    pub message: T,
}

/// Which node speaks: its address, so that a node that lost its memory is still the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// A name of 1 to 64 visible ASCII characters; `None` if it is no such.
    pub fn new(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let fits = (1..=MAX_NODE_BYTES).contains(&name.len());
        (fits && name.bytes().all(|b| b.is_ascii_graphic())).then_some(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 of a bearer token as it stands in `Authorization`: enough to recognise the token, useless to who lacks it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    /// The digest of a token.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "TokenDigest({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

/// Whom a listening socket belongs to. The digest differs for each start of a container, so it tells two sockets of one
/// container apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The container whose network namespace it is in.
    pub container: ContainerId,
    /// The function that runs there.
    pub function: FunctionId,
    /// Whose data it works on.
    pub group: ServiceGroup,
    /// What it may store and ask.
    pub quotas: ServiceQuotas,
    /// What its requests must carry.
    pub token: TokenDigest,
}

/// One socket that the provider holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldSocket {
    /// Whose.
    pub container: ContainerId,
    /// Of which start.
    pub token: TokenDigest,
}

/// The bytes of a secret: overwritten when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// These bytes; `None` if they are more than travel ([`MAX_SECRET_BYTES`]). They are overwritten then too.
    pub fn new(mut bytes: Vec<u8>) -> Option<Self> {
        if bytes.len() > MAX_SECRET_BYTES {
            bytes.zeroize();
            return None;
        }
        Some(Self(Zeroizing::new(bytes)))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// What bismuthd asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Who speaks; first, once.
    Hello {
        /// The newest version it understands.
        newest: u8,
        /// Which node it is.
        node: NodeName,
    },
    /// What is held for this node?
    List,
    /// Take this listening socket.
    Attach(Attachment),
    /// Let go of it.
    Detach(ContainerId),
    /// Give me a descriptor of it, and keep yours.
    Duplicate(ContainerId),
    /// What is this secret's current value?
    Secret {
        /// Whose.
        group: ServiceGroup,
        /// Which.
        name: String,
    },
}

/// What svcprovider answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `Hello`.
    Welcome {
        /// The newest version it understands.
        newest: u8,
    },
    /// To `List`, in as many packets as it takes.
    HeldSockets {
        /// Part of what is held.
        held: Vec<HeldSocket>,
        /// Whether another packet follows.
        more: bool,
    },
    /// It is so. Detaching what is not held is done too.
    Done,
    /// To `Duplicate`: the socket travels with this.
    Listener,
    /// There is no such socket or secret.
    Absent,
    /// To `Secret`.
    Secret(SecretValue),
    /// It could not be done; nothing was changed.
    Refused {
        /// Why, for a log.
        reason: String,
    },
}

impl Numbered<Request> {
    /// The request as it travels.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let number = self.number;
        match &self.message {
            Request::Hello { newest, node } => {
                Writer::new(1, number).u8(*newest).text(&node.0).finish()
            }
            Request::List => Writer::new(2, number).finish(),
            Request::Attach(attachment) => Writer::new(3, number)
                .bytes(attachment.container.as_bytes())
                .bytes(attachment.function.as_bytes())
                .text(attachment.group.as_str())
                .quotas(&attachment.quotas)
                .bytes(&attachment.token.0)
                .finish(),
            Request::Detach(container) => {
                Writer::new(4, number).bytes(container.as_bytes()).finish()
            }
            Request::Duplicate(container) => {
                Writer::new(5, number).bytes(container.as_bytes()).finish()
            }
            Request::Secret { group, name } => Writer::new(6, number)
                .text(group.as_str())
                .text(name)
                .finish(),
        }
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// When it is not a request of a version understood here.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        let (mut reader, kind, number) = Reader::open(packet)?;
        let message = match kind {
            1 => Request::Hello {
                newest: reader.u8()?,
                node: reader.node()?,
            },
            2 => Request::List,
            3 => Request::Attach(Attachment {
                container: reader.container()?,
                function: FunctionId::from_bytes(reader.array()?),
                group: reader.group()?,
                quotas: reader.quotas()?,
                token: TokenDigest(reader.array()?),
            }),
            4 => Request::Detach(reader.container()?),
            5 => Request::Duplicate(reader.container()?),
            6 => Request::Secret {
                group: reader.group()?,
                name: reader.text("name", MAX_SECRET_NAME_BYTES)?.to_owned(),
            },
            kind => return Err(DecodeError::Kind { kind }),
        };
        reader.end()?;
        Ok(Self { number, message })
    }
}

impl Numbered<Answer> {
    /// The answer as it travels.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let number = self.number;
        match &self.message {
            Answer::Welcome { newest } => Writer::new(65, number).u8(*newest).finish(),
            Answer::HeldSockets { held, more } => {
                let start = Writer::new(66, number).u8(u8::from(*more));
                let add = |writer: Writer, held: &HeldSocket| {
                    writer.bytes(held.container.as_bytes()).bytes(&held.token.0)
                };
                held.iter().fold(start, add).finish()
            }
            Answer::Done => Writer::new(67, number).finish(),
            Answer::Listener => Writer::new(68, number).finish(),
            Answer::Absent => Writer::new(69, number).finish(),
            Answer::Secret(value) => Writer::new(70, number).bytes(value.expose()).finish(),
            Answer::Refused { reason } => Writer::new(71, number)
                .text(wire::cut(reason, MAX_REASON_BYTES))
                .finish(),
        }
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// When it is not an answer of a version understood here.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        let (mut reader, kind, number) = Reader::open(packet)?;
        let message = match kind {
            65 => Answer::Welcome {
                newest: reader.u8()?,
            },
            66 => Answer::HeldSockets {
                more: reader.bool("mark of more")?,
                held: reader.held()?,
            },
            67 => Answer::Done,
            68 => Answer::Listener,
            69 => Answer::Absent,
            70 => {
                let value = SecretValue::new(reader.rest().to_vec());
                Answer::Secret(value.ok_or(DecodeError::Length)?)
            }
            71 => Answer::Refused {
                reason: reader.text("reason", MAX_REASON_BYTES)?.to_owned(),
            },
            kind => return Err(DecodeError::Kind { kind }),
        };
        reader.end()?;
        Ok(Self { number, message })
    }
}
