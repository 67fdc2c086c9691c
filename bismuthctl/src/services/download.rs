//! `blob get`: streams a blob to standard output, or into a file that is renamed into place once its digest is checked.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bismuth_model::ServiceGroup;
use bismuth_operator::{Call, OperatorClient, ResponseBody};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::{etag, header};
use crate::error::Error;
use crate::output::Output;

/// RFC 9530: the digest of the whole representation.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// As files are made that say nothing else; the umask takes from it.
const NEW_FILE: u32 = 0o666;

#[derive(Serialize)]
struct BlobGetOutput<'a> {
    key: &'a str,
    file: &'a Path,
    size: u64,
    etag: String,
    content_type: String,
    sha256: String,
}

pub(super) async fn get(
    surface: &OperatorClient,
    group: &ServiceGroup,
    key: &str,
    file: Option<PathBuf>,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let answer = surface.ask(Call::blob(Method::GET, group, key)).await?;
    let expected = expected_digest(answer.headers());
    let (etag, content_type) = (etag(&answer), header(&answer, CONTENT_TYPE));
    let body = answer.into_body();
    let Some(file) = file else {
        let (_, digest) = copy(body, |block| output.bytes(block)).await?;
        return check(key, expected, digest);
    };
    let failed = |source| Error::WriteFile {
        path: file.clone(),
        source,
    };
    let mut target = Target::open(&file).map_err(failed)?;
    let (size, digest) = copy(body, |block| target.write(block).map_err(failed)).await?;
    check(key, expected, digest)?;
    target.finish().map_err(failed)?;
    if !output.is_json() {
        return Ok(());
    }
    output.json(&BlobGetOutput {
        key,
        file: &file,
        size,
        etag,
        content_type,
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// The SHA-256 that the other side names.
pub(super) fn expected_digest(headers: &HeaderMap) -> Option<[u8; 32]> {
    let named = headers.get(REPR_DIGEST)?.to_str().ok()?;
    let digests = named.split(',').map(str::trim);
    let base64 = digests
        .filter_map(|digest| digest.strip_prefix("sha-256=:")?.strip_suffix(':'))
        .next()?;
    BASE64_STANDARD.decode(base64).ok()?.try_into().ok()
}

async fn copy(
    mut body: ResponseBody,
    mut write: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(u64, [u8; 32]), Error> {
    let (mut size, mut hasher) = (0, Sha256::new());
    while let Some(frame) = body.frame().await {
        if let Some(block) = frame?.data_ref() {
            write(block)?;
            hasher.update(block);
            size += block.len() as u64;
        }
    }
    Ok((size, hasher.finalize().into()))
}

fn check(key: &str, expected: Option<[u8; 32]>, digest: [u8; 32]) -> Result<(), Error> {
    match expected {
        Some(expected) if expected == digest => Ok(()),
        Some(_) => Err(Error::Digest {
            key: key.to_owned(),
        }),
        None => {
            eprintln!("blob {key} came without a SHA-256 digest, so it was not checked");
            Ok(())
        }
    }
}

/// A file that is written.
enum Target {
    /// Beside its place under another name; it is removed unless it is finished.
    Beside(Box<NamedTempFile>, PathBuf),
    /// What is there is no regular file, such as /dev/null or a pipe, and is written to.
    Direct(File),
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        // A link leads to the file that is meant.
        let place = match fs::canonicalize(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            place => place?,
        };
        let permissions = match fs::metadata(&place) {
            Ok(there) if there.is_file() => there.permissions(),
            Ok(_) => return File::options().write(true).open(&place).map(Self::Direct),
            Err(_) => Permissions::from_mode(NEW_FILE),
        };
        let directory = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let beside = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".part")
            .permissions(permissions)
            .tempfile_in(directory)?;
        Ok(Self::Beside(Box::new(beside), place))
    }

    fn write(&mut self, block: &[u8]) -> io::Result<()> {
        match self {
            Self::Beside(file, _) => file.write_all(block),
            Self::Direct(file) => file.write_all(block),
        }
    }

    /// On disk first, then under its name.
    fn finish(self) -> io::Result<()> {
        match self {
            Self::Beside(file, place) => {
                file.as_file().sync_all()?;
                file.persist(place).map_err(|error| error.error)?;
                Ok(())
            }
            Self::Direct(mut file) => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_sha_256_is_found_among_digests() {
        let digest = BASE64_STANDARD.encode([7; 32]);
        let of = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            expected_digest(&HeaderMap::from_iter([(REPR_DIGEST, value)]))
        };
        assert_eq!(of(&format!("sha-256=:{digest}:")), Some([7; 32]));
        assert_eq!(
            of(&format!("md5=:AA==:, sha-256=:{digest}:")),
            Some([7; 32])
        );
        for none in ["sha-256=:AA==:", "sha-512=:AA==:", "nonsense", ""] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
