//! Secrets on their way to the function that asked for them, without touching a disk or a runtime's spec.

use std::ffi::CString;
use std::fmt;

use super::wire::{self, Reader};
use super::{DELIVERY_VERSION, ExecRequest, ProtocolError, RequestError, header};

/// Files to write, and perhaps the program to become: one whose environment must not be in the container's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Written first.
    pub files: Vec<SecretFile>,
    /// init becomes this program, with the container's own standard streams.
    pub program: Option<ExecRequest>,
}

/// A file in [`SECRETS_DIR`](crate::SECRETS_DIR), readable by the function's user.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// One path segment.
    pub name: CString,
    /// What it holds.
    pub content: Vec<u8>,
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFile")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    /// Header and body as they travel.
    ///
    /// # Errors
    /// When there is no program in the request, or the body would be longer than
    /// [`MAX_BODY_BYTES`](super::MAX_BODY_BYTES).
    pub fn encode(&self) -> Result<Vec<u8>, RequestError> {
        let files: usize = self.files.iter().map(SecretFile::bytes).sum();
        let program = self.program.as_ref();
        if program.is_some_and(|program| program.argv.is_empty()) {
            return Err(RequestError::NoProgram);
        }
        let bytes = 4 + files + 1 + program.map_or(0, ExecRequest::body_bytes);
        let mut out = header(DELIVERY_VERSION, bytes)?;
        wire::put_u32(&mut out, self.files.len());
        for file in &self.files {
            wire::put_string(&mut out, &file.name);
            wire::put_bytes(&mut out, &file.content);
        }
        out.push(u8::from(program.is_some()));
        if let Some(program) = program {
            program.encode_body(&mut out);
        }
        Ok(out)
    }

    pub(super) fn decode_body(mut reader: Reader<'_>) -> Result<Self, ProtocolError> {
        let files = reader.list(SecretFile::decode)?;
        let program = match reader.array()? {
            [0] => {
                reader.end()?;
                None
            }
            [1] => Some(ExecRequest::decode_body(reader)?),
            [kind] => return Err(ProtocolError::Kind { kind }),
        };
        Ok(Self { files, program })
    }
}

impl SecretFile {
    fn bytes(&self) -> usize {
        4 + self.name.as_bytes().len() + 4 + self.content.len()
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let name = reader.string()?;
        let is_segment =
            !matches!(name.as_bytes(), b"" | b"." | b"..") && !name.as_bytes().contains(&b'/');
        if !is_segment {
            return Err(ProtocolError::FileName { name });
        }
        let content = reader.bytes()?.to_vec();
        Ok(Self { name, content })
    }
}
