//! Writes and reads the fields of a packet.

use bismuth_model::{ContainerId, ServiceGroup, ServiceQuotas};
use zeroize::Zeroizing;

use super::{
    DecodeError, HELD_PER_PACKET, HeldSocket, MAX_NODE_BYTES, NodeName, TokenDigest, VERSION,
};

/// Bytes of a container's id and a digest.
const HELD_BYTES: usize = 16 + 32;

/// The longest start of `text` that has at most `most` bytes.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// Puts a packet together.
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(super) fn new(kind: u8, number: u32) -> Self {
        let writer = Self(Zeroizing::new(Vec::with_capacity(256)));
        writer.u8(VERSION).u8(kind).bytes(&number.to_le_bytes())
    }

    pub(super) fn u8(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        if self.0.capacity() - self.0.len() < bytes.len() {
            // Growing in place may move: what was written so far must not stay behind.
            let mut larger = Vec::with_capacity((self.0.len() + bytes.len()).next_power_of_two());
            larger.extend_from_slice(&self.0);
            self.0 = Zeroizing::new(larger);
        }
        self.0.extend_from_slice(bytes);
        self
    }

    /// Callers have bounded it far below what a u16 holds; what is longer is cut.
    pub(super) fn text(self, text: &str) -> Self {
        let text = cut(text, usize::from(u16::MAX));
        self.bytes(&(text.len() as u16).to_le_bytes())
            .bytes(text.as_bytes())
    }

    pub(super) fn quotas(self, quotas: &ServiceQuotas) -> Self {
        let limits = [
            quotas.kv_bytes,
            quotas.kv_keys,
            quotas.blob_bytes,
            quotas.blob_count,
            quotas.requests_per_second,
        ];
        let bits = limits
            .iter()
            .enumerate()
            .map(|(bit, limit)| u8::from(limit.is_some()) << bit)
            .sum();
        let add = |writer: Self, limit: &u64| writer.bytes(&limit.to_le_bytes());
        limits.iter().flatten().fold(self.u8(bits), add)
    }

    pub(super) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Takes fields from the front of a packet.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads what stands before the fields: the kind and the number of the request.
    pub(super) fn open(packet: &'a [u8]) -> Result<(Self, u8, u32), DecodeError> {
        let mut reader = Self { rest: packet };
        let version = reader.u8()?;
        if !(1..=VERSION).contains(&version) {
            return Err(DecodeError::Version { version });
        }
        let (kind, number) = (reader.u8()?, u32::from_le_bytes(reader.array()?));
        Ok((reader, kind, number))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Length)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Field { field }),
        }
    }

    pub(super) fn text(
        &mut self,
        field: &'static str,
        most: usize,
    ) -> Result<&'a str, DecodeError> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let (text, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::Length)?;
        self.rest = rest;
        match std::str::from_utf8(text) {
            Ok(text) if length <= most => Ok(text),
            _ => Err(DecodeError::Field { field }),
        }
    }

    pub(super) fn node(&mut self) -> Result<NodeName, DecodeError> {
        let name = self.text("node", MAX_NODE_BYTES)?;
        NodeName::new(name).ok_or(DecodeError::Field { field: "node" })
    }

    pub(super) fn group(&mut self) -> Result<ServiceGroup, DecodeError> {
        let name = self.text("group", ServiceGroup::MAX_BYTES)?;
        name.parse()
            .map_err(|_| DecodeError::Field { field: "group" })
    }

    pub(super) fn container(&mut self) -> Result<ContainerId, DecodeError> {
        self.array().map(ContainerId::from_bytes)
    }

    pub(super) fn quotas(&mut self) -> Result<ServiceQuotas, DecodeError> {
        let bits = self.u8()?;
        if bits >= 1 << 5 {
            return Err(DecodeError::Field { field: "quotas" });
        }
        let mut limit = |bit: u8| -> Result<Option<u64>, DecodeError> {
            if bits & (1 << bit) == 0 {
                return Ok(None);
            }
            self.array().map(u64::from_le_bytes).map(Some)
        };
        Ok(ServiceQuotas {
            kv_bytes: limit(0)?,
            kv_keys: limit(1)?,
            blob_bytes: limit(2)?,
            blob_count: limit(3)?,
            requests_per_second: limit(4)?,
        })
    }

    /// All that is left are held sockets.
    pub(super) fn held(&mut self) -> Result<Vec<HeldSocket>, DecodeError> {
        let bytes = self.rest();
        let whole = bytes.len().is_multiple_of(HELD_BYTES);
        if !whole || bytes.len() > HELD_PER_PACKET * HELD_BYTES {
            return Err(DecodeError::Length);
        }
        let member = |bytes| {
            let mut reader = Self { rest: bytes };
            Ok(HeldSocket {
                container: reader.container()?,
                token: TokenDigest(reader.array()?),
            })
        };
        bytes.chunks_exact(HELD_BYTES).map(member).collect()
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// There must be nothing left.
    pub(super) fn end(self) -> Result<(), DecodeError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(DecodeError::Length),
        }
    }
}
