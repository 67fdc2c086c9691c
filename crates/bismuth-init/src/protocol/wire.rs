//! Encodes and decodes numbers, strings and lists.

use std::ffi::{CStr, CString};

use super::ProtocolError;

/// Appends a length or count. Callers have bounded it by [`super::MAX_BODY_BYTES`].
pub(super) fn put_u32(out: &mut Vec<u8>, number: usize) {
    out.extend((number as u32).to_le_bytes());
}

pub(super) fn put_string(out: &mut Vec<u8>, string: &CStr) {
    put_bytes(out, string.to_bytes());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Takes fields from the front of a message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(ProtocolError::Length)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, ProtocolError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn string(&mut self) -> Result<CString, ProtocolError> {
        CString::new(self.bytes()?).map_err(|_| ProtocolError::ZeroByte)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], ProtocolError> {
        let length = self.u32()? as usize;
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(ProtocolError::Length)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A list of members that take at least four bytes each.
    pub(super) fn list<T>(
        &mut self,
        member: impl Fn(&mut Self) -> Result<T, ProtocolError>,
    ) -> Result<Vec<T>, ProtocolError> {
        let count = self.u32()? as usize;
        // A count is believed only as far as there are bytes for it.
        if count > self.rest.len() / 4 {
            return Err(ProtocolError::Length);
        }
        (0..count).map(|_| member(self)).collect()
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// There must be nothing left.
    pub(super) fn end(self) -> Result<(), ProtocolError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(ProtocolError::Length)
        }
    }
}
