//! Makes a client of a bucket from a URL and the environment.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};
use thiserror::Error;
use zeroize::Zeroizing;

use super::credentials_file::{CredentialsFile, CredentialsFileError};

const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";
/// Where the tools of AWS look for credentials that may change, and which part of that they take.
const FILE: &str = "AWS_SHARED_CREDENTIALS_FILE";
const PROFILE: &str = "AWS_PROFILE";
/// Where the tools of AWS look for more authorities.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";
/// What S3 takes for those that do not say; what others who speak its protocol take for any.
const REGION: &str = "us-east-1";
/// Below the bound of a call, so that the error says what was waited for.
const CONNECT_BOUND: Duration = Duration::from_millis(900);
/// Servers close what is not used after some tens of seconds; a request that crosses with that has to be made again.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// Why a bucket cannot be used. Nothing of the URL is shown that may be a secret in the wrong place.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum S3Error {
    #[error("expected s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]")]
    Url,
    #[error("the URL of a bucket has `endpoint` and `region`, once each, and not {name:?}")]
    Parameter { name: String },
    #[error("the endpoint of the bucket is not http://HOST[:PORT] or https://HOST[:PORT]")]
    Endpoint,
    #[error("objects cannot be below {prefix:?}")]
    Prefix {
        prefix: String,
        source: object_store::path::Error,
    },
    #[error(
        "credentials of the bucket: set {KEY_ID} and {SECRET_KEY} (and {SESSION_TOKEN}, if there is one), or {FILE}; {missing} is not set"
    )]
    Credentials { missing: &'static str },
    #[error(transparent)]
    CredentialsFile(#[from] CredentialsFileError),
    #[error("read the authorities in {path} ({CA_BUNDLE})")]
    Authorities {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("set up a client of S3")]
    Client(#[source] object_store::Error),
}

/// Who we are to S3.
#[derive(Clone)]
pub struct Credentials(Kind);

#[derive(Clone)]
enum Kind {
    Fixed {
        key_id: String,
        secret_key: Zeroizing<String>,
        session_token: Option<Zeroizing<String>>,
    },
    File(Arc<CredentialsFile>),
}

impl Credentials {
    /// A key and its secret.
    #[must_use]
    pub fn new(key_id: &str, secret_key: &str) -> Self {
        Self(Kind::Fixed {
            key_id: key_id.to_owned(),
            secret_key: Zeroizing::new(secret_key.to_owned()),
            session_token: None,
        })
    }

    /// Those in a profile of a file in the form of AWS's tools, which is read again every few seconds.
    ///
    /// # Errors
    /// When it has none.
    pub fn in_file(path: &std::path::Path, profile: &str) -> Result<Self, S3Error> {
        let file = CredentialsFile::open(path, profile)?;
        Ok(Self(Kind::File(Arc::new(file))))
    }

    /// What the environment has, or the file that it names.
    ///
    /// # Errors
    /// When it has not what is needed.
    pub fn from_environment() -> Result<Self, S3Error> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, S3Error> {
        let set = |name: &'static str| variable(name).filter(|value| !value.is_empty());
        let needed = |missing| set(missing).ok_or(S3Error::Credentials { missing });
        if let (None, Some(path)) = (set(KEY_ID), set(FILE)) {
            let profile = set(PROFILE).unwrap_or_else(|| "default".to_owned());
            return Self::in_file(path.as_ref(), &profile);
        }
        Ok(Self(Kind::Fixed {
            key_id: needed(KEY_ID)?,
            secret_key: needed(SECRET_KEY)?.into(),
            session_token: set(SESSION_TOKEN).map(Into::into),
        }))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
struct Location {
    bucket: String,
    prefix: Path,
    endpoint: Option<String>,
    region: Option<String>,
}

impl Location {
    fn parse(url: &str) -> Result<Self, S3Error> {
        let rest = url.strip_prefix("s3://").ok_or(S3Error::Url)?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        // What is no bucket's name may be a password.
        if !is_name(bucket) {
            return Err(S3Error::Url);
        }
        let prefix = Path::parse(prefix).map_err(|source| {
            let prefix = prefix.to_owned();
            S3Error::Prefix { prefix, source }
        })?;
        let mut location = Self {
            bucket: bucket.to_owned(),
            prefix,
            endpoint: None,
            region: None,
        };
        for param in query.split('&').filter(|param| !param.is_empty()) {
            let (name, value) = param.split_once('=').unwrap_or((param, ""));
            match name {
                "endpoint" if location.endpoint.is_none() => {
                    location.endpoint = Some(endpoint(value)?);
                }
                "region" if location.region.is_none() && is_name(value) => {
                    location.region = Some(value.to_owned());
                }
                _ => return Err(S3Error::Parameter { name: name.into() }),
            }
        }
        Ok(location)
    }

    fn is_without_tls(&self) -> bool {
        let endpoint = self.endpoint.as_deref().unwrap_or_default();
        endpoint.starts_with("http://")
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !text.is_empty() && text.chars().all(allowed)
}

fn endpoint(url: &str) -> Result<String, S3Error> {
    let uri: http::Uri = url.parse().map_err(|_| S3Error::Endpoint)?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().ok_or(S3Error::Endpoint)?;
    // A path would be a part of every key, and who asks is said elsewhere.
    if !known || uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
        return Err(S3Error::Endpoint);
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// A client of the bucket, and where in it objects are.
pub(super) fn connect(url: &str, credentials: Credentials) -> Result<(AmazonS3, Path), S3Error> {
    let location = Location::parse(url)?;
    // Fails only if a provider is installed already: then that one is used, which is what we want too.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A bucket with a dot in its name does not match the certificate of `*.s3.…`.
    let by_host = location.endpoint.is_none() && !location.bucket.contains('.');
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&location.bucket)
        .with_region(location.region.as_deref().unwrap_or(REGION))
        .with_virtual_hosted_style_request(by_host)
        .with_client_options(client_options(location.is_without_tls())?)
        .with_retry(retries())
        // Not everybody who speaks the protocol has it.
        .with_disable_bulk_delete(true);
    builder = match credentials.0 {
        Kind::File(file) => builder.with_credentials(file),
        Kind::Fixed {
            key_id,
            secret_key,
            session_token,
        } => {
            let builder = builder.with_access_key_id(key_id);
            let builder = builder.with_secret_access_key(secret_key.as_str());
            match session_token {
                Some(token) => builder.with_token(token.as_str()),
                None => builder,
            }
        }
    };
    if let Some(endpoint) = &location.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let client = builder.build().map_err(S3Error::Client)?;
    Ok((client, location.prefix))
}

/// Inside the bound of a call: what takes longer is the caller's to try again.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_millis(200),
            base: 2.0,
        },
        max_retries: 3,
        retry_timeout: Duration::from_millis(500),
    }
}

fn client_options(without_tls: bool) -> Result<ClientOptions, S3Error> {
    let mut options = ClientOptions::new()
        .with_allow_http(without_tls)
        // A large object takes as long as it takes; what each step of it may is said where it is made.
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_BOUND)
        .with_pool_idle_timeout(POOL_IDLE)
        .with_no_system_certificates(true);
    if without_tls {
        return Ok(options);
    }
    for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        options =
            options.with_root_certificate(Certificate::from_der(root).map_err(S3Error::Client)?);
    }
    let Some(path) = std::env::var_os(CA_BUNDLE).map(PathBuf::from) else {
        return Ok(options);
    };
    let bundle = std::fs::read(&path).map_err(|source| S3Error::Authorities { path, source })?;
    for root in Certificate::from_pem_bundle(&bundle).map_err(S3Error::Client)? {
        options = options.with_root_certificate(root);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_which_bucket_where_and_how() {
        let location = Location::parse("s3://blobs").unwrap();
        assert_eq!((&*location.bucket, location.prefix.as_ref()), ("blobs", ""));
        let location =
            Location::parse("s3://blobs/a/b?endpoint=http://127.0.0.1:9000/&region=eu").unwrap();
        assert_eq!(location.prefix.as_ref(), "a/b");
        assert_eq!(location.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(location.region.as_deref(), Some("eu"));
        assert!(location.is_without_tls());
    }

    #[test]
    fn a_url_that_is_not_understood_is_refused_and_not_shown() {
        for (url, refusal) in [
            ("https://blobs", "expected s3://"),
            ("s3://", "expected s3://"),
            ("s3://me:canary@blobs", "expected s3://"),
            ("s3://b/c//d", "cannot be below"),
            ("s3://b/../c", "cannot be below"),
            ("s3://b?secret=canary", "not \"secret\""),
            ("s3://b?region=eu&region=us", "not \"region\""),
            ("s3://b?region=", "not \"region\""),
            ("s3://b?endpoint=ftp://h", "the endpoint"),
            ("s3://b?endpoint=http://me:canary@h", "the endpoint"),
            ("s3://b?endpoint=http://h/path", "the endpoint"),
            ("s3://b?endpoint=localhost:9000", "the endpoint"),
        ] {
            let error = Location::parse(url).unwrap_err().to_string();
            assert!(error.contains(refusal), "{url}: {error}");
            assert!(!error.contains("canary"), "{url}: {error}");
        }
    }

    #[test]
    fn credentials_are_named_when_missing_and_never_shown() {
        let given = |name: &str| Some(format!("canary {name}"));
        let credentials = Credentials::from_variables(given).unwrap();
        let Kind::Fixed { session_token, .. } = &credentials.0 else {
            unreachable!("there is no file");
        };
        assert!(session_token.is_some());
        assert!(!format!("{credentials:?}").contains("canary"));
        let error = Credentials::from_variables(|name| {
            let value = if name == SECRET_KEY { "" } else { "canary" };
            Some(value.to_owned())
        });
        let error = error.unwrap_err().to_string();
        assert!(
            error.ends_with("AWS_SECRET_ACCESS_KEY is not set"),
            "{error}"
        );
        assert!(error.contains("AWS_ACCESS_KEY_ID") && !error.contains("canary"));
    }

    #[test]
    fn a_client_is_made_with_and_without_tls() {
        for url in [
            "s3://b/p?region=eu-west-1",
            "s3://b?endpoint=http://localhost:1",
        ] {
            connect(url, Credentials::new("id", "secret")).unwrap();
        }
    }
}
