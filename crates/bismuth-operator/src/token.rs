//! Reads the operator's token from a file that its owner alone may read.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use http::HeaderValue;
use tokio::io::AsyncReadExt as _;

/// A token is a line; what is longer is another file.
const MAX_BYTES: u64 = 4096;
/// Everything but the owner's rights.
const OTHERS: u32 = 0o077;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TokenError {
    #[error(
        "there is no token file {}: svcprovider makes it at its first start; name the file of your svcprovider with --svcprovider-token-file",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("read token file {} (only the user that svcprovider runs as may)", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "token file {} is open to others than its owner (mode {mode:04o}): `chmod 600` it, and if others may have read it, delete it and restart svcprovider, which makes another",
        path.display()
    )]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("token file {} holds no token: expected one line without spaces, as svcprovider writes it", path.display())]
    Malformed { path: PathBuf },
}

impl TokenError {
    /// Where the token is read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing { path }
            | Self::Read { path, .. }
            | Self::TooOpen { path, .. }
            | Self::Malformed { path } => path,
        }
    }
}

/// Reads a token file, and returns what goes into `Authorization`. It prints as `Sensitive`.
///
/// # Errors
/// When there is none, it cannot be read, others may read it, or it holds something else.
pub async fn read_token(path: &Path) -> Result<HeaderValue, TokenError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => TokenError::Missing {
            path: path.to_owned(),
        },
        _ => TokenError::Read {
            path: path.to_owned(),
            source,
        },
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    // Of the opened file and not of the path, which may be another one by now.
    let mode = file.metadata().await.map_err(failed)?.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(TokenError::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut text)
        .await
        .map_err(failed)?;
    bearer(text.trim_ascii()).ok_or_else(|| TokenError::Malformed {
        path: path.to_owned(),
    })
}

fn bearer(token: &[u8]) -> Option<HeaderValue> {
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn read(content: &[u8], mode: u32) -> Result<HeaderValue, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read_token(&path).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_token_is_one_line_and_is_not_printed() {
        let value = read(b"  abc-123=\n", 0o600).await.unwrap();
        assert_eq!(value, "Bearer abc-123=");
        assert!(!format!("{value:?}").contains("abc"), "{value:?}");
        assert!(read(b"abc", 0o400).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_no_token_is_not_sent() {
        for content in [&b""[..], b" \n", b"two words", b"two\nlines", b"\xff\xfe"] {
            let error = read(content, 0o600).await.unwrap_err();
            assert!(error.contains("holds no token"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_others_may_read_or_write_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o666, 0o610] {
            let error = read(b"abc", mode).await.unwrap_err();
            assert!(
                error.contains("chmod 600") && error.contains(&format!("{mode:04o}")),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_missing_file_and_a_directory_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let error = read_token(&directory.path().join("none")).await;
        assert!(
            matches!(error, Err(TokenError::Missing { .. })),
            "{error:?}"
        );
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        let error = read_token(directory.path()).await;
        assert!(matches!(error, Err(TokenError::Read { .. })), "{error:?}");
    }
}
