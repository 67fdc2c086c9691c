//! Fetches the secrets of a function from svcprovider when its container starts.
//!
//! They are asked for over a connection of their own: a start does not wait behind the reconciler's work. They go to the container over
//! bismuth-init's socket, and so are never in its spec, on a disk, or in what this process saves: bismuth-init has them as
//! long as the container lives.

use std::path::PathBuf;
use std::time::Duration;

use bismuth_base::Backoff;
use bismuth_handover::{Client, NodeName, SecretValue};
use bismuth_init::SecretFile;
use bismuth_model::{SecretUse, ServiceGroup};
use thiserror::Error;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// svcprovider answers from its store within a second, and is back within one when it was restarted.
const BOUND: Duration = Duration::from_secs(3);
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(200));

/// Why a program cannot be given its secrets.
#[derive(Debug, Error)]
pub enum SecretsError {
    #[error("svcprovider does not give the function's secrets: {reason}")]
    Unavailable {
        /// What happened last.
        reason: String,
    },
    #[error("the group {group} has no secret {name:?}; `bismuthctl secret set {group} {name}` makes it", group = group.as_str())]
    Missing { group: ServiceGroup, name: String },
    #[error("the secret {name:?} contains a zero byte, so it cannot be an environment variable")]
    ZeroByte { name: String },
}

/// Where secrets come from.
#[derive(Clone, Debug)]
pub struct SecretSource {
    socket: PathBuf,
    node: NodeName,
}

/// What a program is given.
#[derive(Default)]
pub struct Secrets {
    /// `NAME=value` each.
    pub env: Vec<Zeroizing<Vec<u8>>>,
    /// For `/run/secrets`.
    pub files: Vec<SecretFile>,
}

/// Nothing of them.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl SecretSource {
    /// The svcprovider at `socket`, where this node is called `node`.
    pub fn new(socket: PathBuf, node: NodeName) -> Self {
        Self { socket, node }
    }

    /// The secrets that a definition asks for. Waits for a svcprovider that is being restarted, not longer than 3 s.
    ///
    /// # Errors
    /// As [`SecretsError`] says.
    pub async fn fetch(
        &self,
        group: &ServiceGroup,
        uses: &[SecretUse],
    ) -> Result<Secrets, SecretsError> {
        if uses.is_empty() {
            return Ok(Secrets::default());
        }
        let end = Instant::now() + BOUND;
        let mut delays = RETRY_BACKOFF.delays();
        loop {
            let asked = tokio::time::timeout_at(end, self.ask(group, uses)).await;
            let reason = match asked {
                Ok(Ok(found)) => return assemble(group, uses, found),
                Ok(Err(reason)) => reason,
                Err(_elapsed) => format!("no answer within {} ms", BOUND.as_millis()),
            };
            if Instant::now() >= end {
                return Err(SecretsError::Unavailable { reason });
            }
            tokio::time::sleep(delays.next_delay()).await;
        }
    }

    async fn ask(
        &self,
        group: &ServiceGroup,
        uses: &[SecretUse],
    ) -> Result<Vec<Option<SecretValue>>, String> {
        let client = Client::connect(&self.socket, &self.node).await;
        let mut client = client.map_err(|error| bismuth_base::chain(&error))?;
        let mut found = Vec::with_capacity(uses.len());
        for one in uses {
            let value = client.secret(group, &one.name).await;
            found.push(value.map_err(|error| bismuth_base::chain(&error))?);
        }
        Ok(found)
    }
}

/// The variables of an exec container that an earlier version of this program started: its bismuth-init was not given them. They
/// are those of its first execution since.
pub struct SecretEnv {
    source: SecretSource,
    group: ServiceGroup,
    uses: Vec<SecretUse>,
    env: OnceCell<Vec<Zeroizing<Vec<u8>>>>,
}

impl SecretEnv {
    /// Of a function in `group`.
    pub fn new(source: SecretSource, group: ServiceGroup, uses: &[SecretUse]) -> Self {
        Self {
            source,
            group,
            uses: uses.iter().filter(|u| u.env.is_some()).cloned().collect(),
            env: OnceCell::new(),
        }
    }

    /// `NAME=value` each.
    ///
    /// # Errors
    /// As [`SecretsError`] says; the next call asks again.
    pub async fn get(&self) -> Result<&[Zeroizing<Vec<u8>>], SecretsError> {
        if self.uses.is_empty() {
            return Ok(&[]);
        }
        let fetch = async || Ok(self.source.fetch(&self.group, &self.uses).await?.env);
        self.env.get_or_try_init(fetch).await.map(Vec::as_slice)
    }
}

/// Nothing of them.
impl std::fmt::Debug for SecretEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretEnv")
            .field("uses", &self.uses)
            .finish_non_exhaustive()
    }
}

fn assemble(
    group: &ServiceGroup,
    uses: &[SecretUse],
    found: Vec<Option<SecretValue>>,
) -> Result<Secrets, SecretsError> {
    let mut secrets = Secrets::default();
    for (one, value) in uses.iter().zip(found) {
        let name = || one.name.clone();
        let value = value.ok_or_else(|| SecretsError::Missing {
            group: group.clone(),
            name: name(),
        })?;
        if let Some(variable) = &one.env {
            if value.expose().contains(&0) {
                return Err(SecretsError::ZeroByte { name: name() });
            }
            let line = [variable.as_bytes(), b"=", value.expose()].concat();
            secrets.env.push(Zeroizing::new(line));
        }
        if let Some(file) = &one.file {
            secrets.files.push(SecretFile {
                // Validated with the definition: a name has no NUL.
                name: std::ffi::CString::new(file.as_str()).unwrap_or_default(),
                content: value.expose().to_vec(),
            });
        }
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses() -> Vec<SecretUse> {
        let one = |name: &str, env: Option<&str>, file: Option<&str>| SecretUse {
            name: name.into(),
            env: env.map(str::to_owned),
            file: file.map(str::to_owned),
        };
        vec![one("a", Some("A"), None), one("b/c", Some("B"), Some("f"))]
    }

    fn value(bytes: &[u8]) -> Option<SecretValue> {
        SecretValue::new(bytes.to_vec())
    }

    #[test]
    fn secrets_become_variables_and_files_and_are_never_in_debug_output() {
        let group: ServiceGroup = "g".parse().unwrap();
        let secrets = assemble(&group, &uses(), vec![value(b"1"), value(b"canary")]).unwrap();
        let env: Vec<&[u8]> = secrets.env.iter().map(|line| line.as_slice()).collect();
        assert_eq!(env, [&b"A=1"[..], b"B=canary"]);
        assert_eq!(secrets.files[0].content, b"canary");
        assert!(!format!("{secrets:?} {:?}", secrets.files).contains("canary"));
    }

    #[test]
    fn a_missing_or_unusable_secret_is_named() {
        let group: ServiceGroup = "g".parse().unwrap();
        let missing = assemble(&group, &uses(), vec![value(b"1"), None]).unwrap_err();
        assert!(
            missing.to_string().contains("secret set g b/c"),
            "{missing}"
        );
        let zero = assemble(&group, &uses(), vec![value(b"1\0"), value(b"2")]).unwrap_err();
        assert!(matches!(zero, SecretsError::ZeroByte { .. }), "{zero}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_svcprovider_is_retried_and_then_named() {
        let node = NodeName::new("127.0.0.1").unwrap();
        let source = SecretSource::new("/nonexistent/socket".into(), node);
        let group: ServiceGroup = "g".parse().unwrap();
        let error = source.fetch(&group, &uses()).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
        assert!(source.fetch(&group, &[]).await.unwrap().env.is_empty());
    }
}
