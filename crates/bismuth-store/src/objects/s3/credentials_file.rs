//! Bucket credentials in a file that is read again periodically: for those that are rotated without a restart.
//!
//! ```text
//!   [default]
//!   aws_access_key_id = …
//!   aws_secret_access_key = …
//!   aws_session_token = …            if there is one
//! ```
//!
//! The form is that of AWS's tools ("Configuration and credential file settings in the AWS CLI"). The file is looked at every few seconds;
//! what is unreadable is told once, and what was read before is used on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use thiserror::Error;

/// Credentials are renewed minutes before they end.
const REFRESH_PERIOD: Duration = Duration::from_secs(5);

/// Why a file has no credentials.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CredentialsFileError {
    #[error("read the credentials of the bucket in {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} has no {missing} in its profile [{profile}]", path.display())]
    Missing {
        path: PathBuf,
        profile: String,
        missing: &'static str,
    },
}

/// A profile in a file.
#[derive(Debug)]
pub(super) struct CredentialsFile {
    path: PathBuf,
    profile: String,
    cached: Arc<Mutex<CachedCredential>>,
}

#[derive(Debug)]
struct CachedCredential {
    credential: Arc<AwsCredential>,
    at: Instant,
    /// Whether it is being looked at. One look at a time: a disk that hangs must not take a thread for each.
    refreshing: bool,
    failed: bool,
}

impl CredentialsFile {
    /// Reads it for the first time.
    pub(super) fn open(path: &Path, profile: &str) -> Result<Self, CredentialsFileError> {
        let cached = CachedCredential {
            credential: Arc::new(read(path, profile)?),
            at: Instant::now(),
            refreshing: false,
            failed: false,
        };
        Ok(Self {
            path: path.to_owned(),
            profile: profile.to_owned(),
            cached: Arc::new(Mutex::new(cached)),
        })
    }

    /// Looks again if it is time to, on a thread that may wait for the disk. What it finds is for the requests that follow.
    fn refresh_if_due(&self) {
        let mut cached = lock(&self.cached);
        if cached.refreshing || cached.at.elapsed() < REFRESH_PERIOD {
            return;
        }
        cached.refreshing = true;
        let (path, profile, cached) = (
            self.path.clone(),
            self.profile.clone(),
            Arc::clone(&self.cached),
        );
        tokio::task::spawn_blocking(move || {
            let read = read(&path, &profile);
            lock(&cached).update(read, &path);
        });
    }
}

impl CachedCredential {
    fn update(&mut self, read: Result<AwsCredential, CredentialsFileError>, path: &Path) {
        self.at = Instant::now();
        self.refreshing = false;
        match read {
            Ok(credential) => {
                if credential != *self.credential {
                    tracing::info!(path = %path.display(), "the bucket's credentials were renewed");
                }
                self.credential = Arc::new(credential);
                self.failed = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    let error = bismuth_base::chain(&error);
                    tracing::warn!(error, "the bucket's earlier credentials are used on");
                }
            }
        }
    }
}

fn lock(cached: &Mutex<CachedCredential>) -> MutexGuard<'_, CachedCredential> {
    cached.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl CredentialProvider for CredentialsFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.refresh_if_due();
        Ok(Arc::clone(&lock(&self.cached).credential))
    }
}

fn read(path: &Path, profile: &str) -> Result<AwsCredential, CredentialsFileError> {
    let text = std::fs::read_to_string(path).map_err(|source| CredentialsFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, profile).map_err(|missing| CredentialsFileError::Missing {
        path: path.to_owned(),
        profile: profile.to_owned(),
        missing,
    })
}

/// The credentials of a profile, or the name of the first that is missing.
fn parse(text: &str, profile: &str) -> Result<AwsCredential, &'static str> {
    let lines = text.lines().map(str::trim);
    let header = format!("[{profile}]");
    let section = lines.skip_while(|line| **line != header).skip(1);
    let section = section.take_while(|line| !line.starts_with('['));
    let mut found = AwsCredential {
        key_id: String::new(),
        secret_key: String::new(),
        token: None,
    };
    for (name, value) in section.filter_map(|line| line.split_once('=')) {
        let value = value.trim().to_owned();
        match name.trim() {
            "aws_access_key_id" => found.key_id = value,
            "aws_secret_access_key" => found.secret_key = value,
            "aws_session_token" => found.token = Some(value).filter(|token| !token.is_empty()),
            _ => {}
        }
    }
    match () {
        () if found.key_id.is_empty() => Err("aws_access_key_id"),
        () if found.secret_key.is_empty() => Err("aws_secret_access_key"),
        () => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n[other]\naws_access_key_id=no\naws_secret_access_key=no\n\n[default]\naws_access_key_id = id\n\
        region = here\naws_secret_access_key=a=b/c+\naws_session_token = token\n[last]\naws_access_key_id = only\n";

    #[test]
    fn a_profile_is_found_among_others() {
        let found = parse(FILE, "default").unwrap();
        assert_eq!(
            (found.key_id.as_str(), found.secret_key.as_str()),
            ("id", "a=b/c+")
        );
        assert_eq!(found.token.as_deref(), Some("token"));
        assert_eq!(parse(FILE, "other").unwrap().token, None);
        assert_eq!(parse(FILE, "last").err(), Some("aws_secret_access_key"));
        assert_eq!(parse(FILE, "none").err(), Some("aws_access_key_id"));
    }

    #[tokio::test]
    async fn a_renewed_file_is_read_and_a_broken_one_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let write = |key: &str| {
            let text = format!("[default]\naws_access_key_id={key}\naws_secret_access_key=s\n");
            std::fs::write(&path, text).unwrap();
        };
        assert!(CredentialsFile::open(&path, "default").is_err());
        write("one");
        let file = CredentialsFile::open(&path, "default").unwrap();
        let key = async || file.get_credential().await.unwrap().key_id.clone();
        let looked = async || {
            lock(&file.cached).at = Instant::now().checked_sub(REFRESH_PERIOD).unwrap();
            key().await;
            while lock(&file.cached).refreshing {
                tokio::task::yield_now().await;
            }
        };
        write("two");
        assert_eq!(key().await, "one");
        looked().await;
        assert_eq!(key().await, "two");
        std::fs::write(&path, "[default]\n").unwrap();
        looked().await;
        assert_eq!(key().await, "two");
    }
}
