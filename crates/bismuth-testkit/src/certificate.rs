//! Makes a TLS certificate for servers on 127.0.0.1, valid for a day.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A certificate that is its own authority, and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, which its owner alone may read.
    pub key: PathBuf,
}

impl Certificate {
    /// Where those of a directory are.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            certificate: dir.join("tls.crt"),
            key: dir.join("tls.key"),
        }
    }

    /// Makes one in a directory.
    /// Fails when `openssl` is not installed.
    pub fn make(dir: &Path) -> Result<Self> {
        let made = Self::in_dir(dir);
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&made.key)
            .arg("-out")
            .arg(&made.certificate);
        let output = command.output().context("run openssl")?;
        ensure!(
            output.status.success(),
            "openssl: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(made)
    }
}
