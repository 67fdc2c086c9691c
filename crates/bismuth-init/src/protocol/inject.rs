//! The request that injects secrets, so that they touch neither a disk nor a runtime's spec.

use std::ffi::CString;
use std::fmt;

use super::wire::{self, Reader};
use super::{ExecRequest, INJECT_VERSION, ProtocolError, RequestError, VARIABLES_VERSION, header};

const FILES_ONLY: u8 = 0;
const PROGRAM: u8 = 1;
const VARIABLES: u8 = 2;

/// Files to write, and secrets for environments, which must not be in the container's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectRequest {
    /// Written first.
    pub files: Vec<SecretFile>,
    /// What comes after them.
    pub then: AfterInject,
}

/// What init is after an injection.
#[derive(Clone, PartialEq, Eq)]
pub enum AfterInject {
    /// It goes on, and has these variables, `NAME=value` each, for the environment of every program that it starts from now on,
    /// in place of those of an earlier injection.
    Serve(Vec<CString>),
    /// It becomes this program, with the container's own standard streams.
    Become(ExecRequest),
}

/// Without the secrets.
impl fmt::Debug for AfterInject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve(variables) => write!(f, "Serve({} variables)", variables.len()),
            Self::Become(program) => f.debug_tuple("Become").field(&program.argv).finish(),
        }
    }
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

impl InjectRequest {
    /// Header and body as they travel.
    ///
    /// # Errors
    /// When there is no program in the request, or the body would be longer than
    /// [`MAX_BODY_BYTES`](super::MAX_BODY_BYTES).
    pub fn encode(&self) -> Result<Vec<u8>, RequestError> {
        let files: usize = self.files.iter().map(SecretFile::bytes).sum();
        let (version, then) = match &self.then {
            AfterInject::Become(program) if program.argv.is_empty() => {
                return Err(RequestError::NoProgram);
            }
            AfterInject::Become(program) => (INJECT_VERSION, program.body_bytes()),
            // Understood by every init that takes injections.
            AfterInject::Serve(variables) if variables.is_empty() => (INJECT_VERSION, 0),
            AfterInject::Serve(variables) => {
                let strings = variables.iter().map(|line| 4 + line.as_bytes().len());
                (VARIABLES_VERSION, 4 + strings.sum::<usize>())
            }
        };
        let mut out = header(version, 4 + files + 1 + then)?;
        wire::put_u32(&mut out, self.files.len());
        for file in &self.files {
            wire::put_string(&mut out, &file.name);
            wire::put_bytes(&mut out, &file.content);
        }
        match &self.then {
            AfterInject::Become(program) => {
                out.push(PROGRAM);
                program.encode_body(&mut out);
            }
            AfterInject::Serve(variables) if variables.is_empty() => out.push(FILES_ONLY),
            AfterInject::Serve(variables) => {
                out.push(VARIABLES);
                wire::put_u32(&mut out, variables.len());
                for line in variables {
                    wire::put_string(&mut out, line);
                }
            }
        }
        Ok(out)
    }

    pub(super) fn decode_body(version: u16, mut reader: Reader<'_>) -> Result<Self, ProtocolError> {
        let files = reader.list(SecretFile::decode)?;
        let then = match reader.array()? {
            [FILES_ONLY] => {
                reader.end()?;
                AfterInject::Serve(Vec::new())
            }
            [PROGRAM] => AfterInject::Become(ExecRequest::decode_body(reader)?),
            [VARIABLES] if version >= VARIABLES_VERSION => {
                let variables = reader.list(Reader::string)?;
                reader.end()?;
                AfterInject::Serve(variables)
            }
            [kind] => return Err(ProtocolError::Kind { kind }),
        };
        Ok(Self { files, then })
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
