//! Credentials for registries, from Docker's `config.json`.
//!
//! ```text
//!   credHelpers[host] or credsStore ──► docker-credential-<name> get
//!   auths[host].identitytoken       ──► OAuth2 refresh token (see oauth)
//!   auths[host].auth                ──► base64("user:password")
//!   nothing                         ──► anonymous
//! ```
//!
//! Format: docker/cli `cli/config/configfile/file.go`. The file is read again for every pull, so that a `docker login` takes
//! effect without a restart. An endpoint is only ever given the credentials filed under its own host.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use super::super::error::{ImageError, Result};

/// Helpers ask a local keychain or a cloud's metadata service; the slow ones take a few seconds.
const HELPER_DEADLINE: Duration = Duration::from_secs(15);
/// The user name under which helpers and `config.json` hand out an identity token (docker/cli `credentials/native_store.go`).
const TOKEN_USER: &str = "<token>";

/// What to present to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Anonymous,
    Basic { user: String, password: String },
    IdentityToken(String),
}

/// Never prints a secret.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { user, .. } => write!(f, "Basic({user})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: HashMap<String, AuthEntry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Finds the credential for `host` (`host[:port]`) in the file at `path`. A file that does not exist holds none.
pub(crate) async fn find(path: Option<&Path>, host: &str) -> Result<Credential> {
    let Some(path) = path else {
        return Ok(Credential::Anonymous);
    };
    let failed = |reason: String| ImageError::Credentials {
        registry: host.to_owned(),
        reason,
    };
    let text = match tokio::fs::read(path).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Credential::Anonymous);
        }
        Err(error) => return Err(failed(format!("read {}: {error}", path.display()))),
    };
    // The parser's message could quote a secret; its position cannot.
    let config: DockerConfig = serde_json::from_slice(&text).map_err(|e| {
        failed(format!(
            "{} is not valid at line {} column {}",
            path.display(),
            e.line(),
            e.column()
        ))
    })?;
    let names = names_of(host);
    if let Some((name, helper)) = names
        .iter()
        .find_map(|name| config.cred_helpers.get(name).map(|helper| (name, helper)))
    {
        return ask_helper(helper, name).await.map_err(failed);
    }
    if let Some(entry) = find_entry(&config, &names) {
        // An entry without any secret only marks that the store holds it.
        if let Some(credential) = entry.credential().map_err(failed)? {
            return Ok(credential);
        }
    }
    match &config.creds_store {
        None => Ok(Credential::Anonymous),
        Some(store) => ask_helper(store, &names[names.len() - 1])
            .await
            .map_err(failed),
    }
}

/// The keys under which Docker files a host's credentials; for Docker Hub it is a URL.
fn names_of(host: &str) -> Vec<String> {
    let hub = matches!(
        host,
        "docker.io" | "index.docker.io" | "registry-1.docker.io"
    );
    if hub {
        [
            "docker.io",
            "index.docker.io",
            "https://index.docker.io/v1/",
        ]
        .map(str::to_owned)
        .to_vec()
    } else {
        vec![host.to_owned()]
    }
}

fn find_entry<'a>(config: &'a DockerConfig, names: &[String]) -> Option<&'a AuthEntry> {
    let exact = names.iter().rev().find_map(|name| config.auths.get(name));
    // Old versions of Docker filed URLs ("https://host/v1/").
    let bare = |key: &str| {
        let key = key
            .strip_prefix("https://")
            .or(key.strip_prefix("http://"))
            .unwrap_or(key);
        key.split('/').next().unwrap_or(key).to_owned()
    };
    exact.or_else(|| {
        config
            .auths
            .iter()
            .find(|(key, _)| names.contains(&bare(key)))
            .map(|(_, entry)| entry)
    })
}

impl AuthEntry {
    fn credential(&self) -> Result<Option<Credential>, String> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        if let Some(auth) = given(&self.auth) {
            let decoded = base64::engine::general_purpose::STANDARD
                .decode(auth.trim())
                .ok();
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = text.as_deref().and_then(|text| text.split_once(':'));
            let (user, password) = pair.ok_or("the `auth` entry is not base64 of user:password")?;
            // Docker pads stored passwords with NULs in old files.
            let password = password.trim_end_matches('\0');
            return Ok(Some(basic(user, password)));
        }
        match (given(&self.username), given(&self.password)) {
            (Some(user), Some(password)) => Ok(Some(basic(&user, &password))),
            _ => Ok(None),
        }
    }
}

fn basic(user: &str, password: &str) -> Credential {
    if user == TOKEN_USER {
        Credential::IdentityToken(password.to_owned())
    } else {
        Credential::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }
}

/// Runs `docker-credential-<name> get` (docker/docker-credential-helpers, README "Development").
async fn ask_helper(name: &str, server: &str) -> Result<Credential, String> {
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !plain {
        return Err(format!("{name:?} is not the name of a credential helper"));
    }
    let program = PathBuf::from(format!("docker-credential-{name}"));
    let run = async {
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(server.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER_DEADLINE, run)
        .await
        .map_err(|_| {
            format!(
                "{} did not answer within {HELPER_DEADLINE:?}",
                program.display()
            )
        })?
        .map_err(|error| format!("run {}: {error}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        // The protocol's one sentence for "none", on standard output (credentials/error.go).
        if said.contains("credentials not found") {
            return Ok(Credential::Anonymous);
        }
        let first = said.lines().next().unwrap_or_default().to_owned();
        return Err(format!(
            "{} failed ({}): {first}",
            program.display(),
            output.status
        ));
    }
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout).map_err(|_| {
        format!(
            "{} answered something else than credentials",
            program.display()
        )
    })?;
    Ok(basic(&answer.username, &answer.secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(config: &str, host: &str) -> Result<Credential> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("config.json");
        std::fs::write(&path, config).expect("write");
        find(Some(&path), host).await
    }

    fn alice() -> Credential {
        Credential::Basic {
            user: "alice".into(),
            password: "se:cret".into(),
        }
    }

    #[tokio::test]
    async fn a_login_is_found_under_its_host_and_no_other() {
        // base64 of alice:se:cret
        let config = r#"{"auths": {"registry.lan:5000": {"auth": "YWxpY2U6c2U6Y3JldA=="}}}"#;
        assert_eq!(
            found(config, "registry.lan:5000").await.expect("read"),
            alice()
        );
        assert_eq!(
            found(config, "registry.lan").await.expect("read"),
            Credential::Anonymous
        );
    }

    #[tokio::test]
    async fn credentials_of_docker_hub_are_found_under_its_old_url() {
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"username": "alice", "password": "se:cret"}}}"#;
        assert_eq!(found(config, "docker.io").await.expect("read"), alice());
    }

    #[tokio::test]
    async fn identity_tokens_are_told_from_passwords() {
        let config = r#"{"auths": {"a": {"auth": "", "identitytoken": "t"}, "b": {"username": "<token>", "password": "t"}}}"#;
        for host in ["a", "b"] {
            assert_eq!(
                found(config, host).await.expect("read"),
                Credential::IdentityToken("t".into())
            );
        }
    }

    #[tokio::test]
    async fn errors_about_credentials_contain_no_secret() {
        let error = found(r#"{"auths": {"a": {"auth": "bm9jb2xvbg=="}}}"#, "a")
            .await
            .expect_err("no colon");
        assert_eq!(
            error.to_string(),
            "credentials for a: the `auth` entry is not base64 of user:password"
        );
        let error = found(r#"{"credHelpers": {"a": "no-such-helper"}}"#, "a")
            .await
            .expect_err("no helper");
        assert!(
            error
                .to_string()
                .contains("run docker-credential-no-such-helper"),
            "{error}"
        );
        let error = found(r#"{"credHelpers": {"a": "../x"}}"#, "a")
            .await
            .expect_err("not a name");
        assert!(error.to_string().contains("not the name"), "{error}");
        assert!(!format!("{:?}", alice()).contains("cret"));
    }

    #[tokio::test]
    async fn no_file_means_anonymous() {
        let credential = find(Some(Path::new("/nonexistent/config.json")), "a")
            .await
            .expect("none");
        assert_eq!(credential, Credential::Anonymous);
    }
}
