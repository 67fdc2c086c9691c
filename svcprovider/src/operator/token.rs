//! The operator's token: created at the first start, in a file that its owner alone may read.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bismuth_base::file;
use bismuth_handover::TokenDigest;
use http::HeaderMap;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::file_error::{FileError, failed};
use crate::http::bearer;

/// As a key of 256 bits: nobody guesses it.
const TOKEN_BYTES: usize = 32;

/// Why there is no token.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TokenError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} can be read by others than its owner; chmod 600 it", .0.display())]
    Open(PathBuf),
    #[error("{} is empty; remove it, and a new token is made", .0.display())]
    Empty(PathBuf),
    #[error("make a token")]
    Random(#[source] getrandom::Error),
}

/// What an operator's request must show; only a digest is kept.
#[derive(Clone, Debug)]
pub struct OperatorToken(TokenDigest);

impl OperatorToken {
    /// The token in the file, which is made if it is not there.
    ///
    /// # Errors
    /// As [`TokenError`] says.
    pub fn load_or_make(path: &Path) -> Result<Self, TokenError> {
        match Self::load(path) {
            Err(TokenError::File(error)) if error.source.kind() == io::ErrorKind::NotFound => {
                make(path)?;
                Self::load(path)
            }
            loaded => loaded,
        }
    }

    fn load(path: &Path) -> Result<Self, TokenError> {
        let mode = fs::metadata(path).map_err(failed("look at", path))?.mode();
        if mode & 0o077 != 0 {
            return Err(TokenError::Open(path.to_owned()));
        }
        let text = fs::read(path).map_err(failed("read", path))?;
        let text = Zeroizing::new(text);
        let token = text.trim_ascii();
        if token.is_empty() {
            return Err(TokenError::Empty(path.to_owned()));
        }
        Ok(Self(TokenDigest::of(token)))
    }

    /// Whether a request shows it.
    pub fn is_shown(&self, headers: &HeaderMap) -> bool {
        bearer::is_shown(headers, &self.0)
    }
}

fn make(path: &Path) -> Result<(), TokenError> {
    let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
    getrandom::fill(&mut bytes[..]).map_err(TokenError::Random)?;
    let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes[..]) + "\n");
    // Whole or not at all: a token that was cut short by a crash would be one that is easy to guess.
    file::replace_durably(path, text.as_bytes(), 0o600).map_err(failed("make", path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use http::header::AUTHORIZATION;

    use super::*;

    #[test]
    fn it_is_made_once_and_read_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.token");
        let made = OperatorToken::load_or_make(&path).unwrap();
        let token = fs::read_to_string(&path).unwrap();
        assert!(token.trim().len() >= 43, "{} characters", token.len());
        let again = OperatorToken::load_or_make(&path).unwrap();
        for (given, shown) in [
            (format!("Bearer {}", token.trim()), true),
            (format!("bearer {}", token.trim()), true),
            (token.trim().to_owned(), false),
            ("Bearer x".to_owned(), false),
            (String::new(), false),
        ] {
            let headers = [(AUTHORIZATION, given.parse().unwrap())];
            let headers: HeaderMap = headers.into_iter().collect();
            assert_eq!(made.is_shown(&headers), shown);
            assert_eq!(again.is_shown(&headers), shown);
        }
        assert!(!made.is_shown(&HeaderMap::new()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = OperatorToken::load_or_make(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
