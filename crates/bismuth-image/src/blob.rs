//! A blob with its digest.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Content addressed by its SHA-256, in memory or (large layers) in a file.
#[derive(Debug, Clone)]
pub struct Blob {
    media_type: String,
    digest: String,
    size: u64,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Memory(Bytes),
    File(PathBuf),
}

impl Blob {
    /// A blob of these bytes.
    pub fn from_bytes(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            media_type: media_type.into(),
            digest: digest_of(&bytes),
            size: bytes.len() as u64,
            content: Content::Memory(bytes),
        }
    }

    /// A blob of a file's content; the file stays where it is.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn from_file(media_type: &str, path: &Path) -> Result<Self> {
        let read = || -> io::Result<(String, u64)> {
            let mut file = File::open(path)?;
            let mut hash = Sha256::new();
            let mut size = 0;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    return Ok((format!("sha256:{}", hex(&hash.finalize())), size));
                }
                hash.update(&buffer[..count]);
                size += count as u64;
            }
        };
        let (digest, size) = read().with_context(|| format!("read {}", path.display()))?;
        Ok(Self {
            media_type: media_type.into(),
            digest,
            size,
            content: Content::File(path.into()),
        })
    }

    /// `sha256:…`.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The hexadecimal part of the digest.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.digest.trim_start_matches("sha256:")
    }

    /// What it is, as the manifest says.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its content.
    ///
    /// # Errors
    ///
    /// When it lives in a file that cannot be read.
    pub fn read(&self) -> Result<Bytes> {
        match &self.content {
            Content::Memory(bytes) => Ok(bytes.clone()),
            Content::File(path) => fs::read(path)
                .map(Bytes::from)
                .with_context(|| format!("read {}", path.display())),
        }
    }

    /// An OCI descriptor of it.
    #[must_use]
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.size })
    }
}

/// `sha256:…` of these bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
