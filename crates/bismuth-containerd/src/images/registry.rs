//! The registry client: the OCI distribution protocol, spoken by `oci-client`.
//!
//! ```text
//!   reference ──► RegistryClient::remotes ──► [Remote, …]   one per endpoint, in the order to try
//!                 credentials, client cached        ├── head      tag -> digest
//!                                                   ├── manifest  -> bytes, digest checked
//!                                                   └── blob      -> stream from an offset
//! ```
//!
//! One request each; retries and fallback are the caller's. Every failure becomes an [`ImageError`] that carries the
//! registry's own words.
//!
//! TLS is rustls with ring and the system's certificate authorities. On a machine that has none installed, Mozilla's list is
//! used, so that a plain-HTTP registry on a minimal system does not fail for want of certificates it never needs.

mod classify;
pub mod config;
mod credentials;
mod oauth;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use bismuth_base::chain;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use oci_client::RegistryOperation;
use oci_client::client::{
    BlobResponse, Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol,
};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_spec::distribution::Reference;

use super::digest::Digest;
use super::error::{ImageError, Result};
use super::manifest::ACCEPTED;
use super::single_flight::lock;
use config::{Endpoint, RegistryConfig};
use credentials::Credential;

/// A registry that takes longer to accept a connection is down, or a firewall swallows packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence within a response: after this the request is made anew, from where it was.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes [`Remote`]s. Clients, with their connections and tokens, are kept per endpoint.
pub(crate) struct RegistryClient {
    config: RegistryConfig,
    credentials_file: Option<PathBuf>,
    clients: Mutex<HashMap<Endpoint, (RegistryAuth, Client)>>,
}

/// One endpoint for one repository.
#[derive(Clone)]
pub(crate) struct Remote {
    name: String,
    /// As the user wrote it, for messages.
    wanted: String,
    client: Client,
    auth: RegistryAuth,
    /// As the endpoint knows it.
    reference: Reference,
}

/// The content of a blob on its way.
pub(crate) struct BlobStream {
    /// The offset at which the stream begins: the one asked for, or 0 if the registry cannot begin elsewhere.
    pub offset: u64,
    pub stream: BoxStream<'static, std::io::Result<Bytes>>,
}

impl RegistryClient {
    pub fn new(config: RegistryConfig, credentials_file: Option<PathBuf>) -> Self {
        // Fails only if a provider is installed already: then that one is used, which is what we want too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            config,
            credentials_file,
            clients: Mutex::default(),
        }
    }

    /// The endpoints for `reference`, ready to be asked, and what was wrong with those that are not.
    pub async fn remotes(&self, reference: &Reference) -> (Vec<Remote>, Vec<ImageError>) {
        let (mut remotes, mut failures) = (Vec::new(), Vec::new());
        for endpoint in self.config.endpoints(reference.registry()) {
            match self.remote(reference, endpoint).await {
                Ok(remote) => remotes.push(remote),
                Err(error) => failures.push(error),
            }
        }
        (remotes, failures)
    }

    async fn remote(&self, reference: &Reference, endpoint: Endpoint) -> Result<Remote> {
        let repository = match endpoint.prefix.as_str() {
            "" => reference.repository().to_owned(),
            prefix => format!("{prefix}/{}", reference.repository()),
        };
        let credential =
            credentials::find(self.credentials_file.as_deref(), &endpoint.host).await?;
        let auth = self
            .authentication(&endpoint, &repository, credential)
            .await?;
        let name = endpoint.name();
        let there = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => {
                Reference::with_digest(endpoint.host.clone(), repository, digest.to_owned())
            }
            (None, tag) => Reference::with_tag(
                endpoint.host.clone(),
                repository,
                tag.unwrap_or("latest").to_owned(),
            ),
        };
        let client = self.client(endpoint, &auth)?;
        client
            .store_auth_if_needed(there.resolve_registry(), &auth)
            .await;
        Ok(Remote {
            name,
            wanted: reference.whole(),
            client,
            auth,
            reference: there,
        })
    }

    async fn authentication(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        credential: Credential,
    ) -> Result<RegistryAuth> {
        match credential {
            Credential::Anonymous => Ok(RegistryAuth::Anonymous),
            Credential::Basic { user, password } => Ok(RegistryAuth::Basic(user, password)),
            Credential::IdentityToken(token) => {
                let failed = |reason| ImageError::Credentials {
                    registry: endpoint.host.clone(),
                    reason,
                };
                let http = reqwest::Client::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .read_timeout(READ_TIMEOUT)
                    .build()
                    .map_err(|error| failed(chain(&error)))?;
                let base = Endpoint {
                    prefix: String::new(),
                    ..endpoint.clone()
                }
                .name();
                let token = oauth::exchange(&http, &base, repository, &token)
                    .await
                    .map_err(failed)?;
                Ok(RegistryAuth::Bearer(token))
            }
        }
    }

    fn client(&self, endpoint: Endpoint, auth: &RegistryAuth) -> Result<Client> {
        // `oci-client` keeps the first credentials it is given for a host, so other credentials need another client.
        let known = lock(&self.clients).get(&endpoint).cloned();
        if let Some((_, client)) = known.filter(|(with, _)| with == auth) {
            return Ok(client);
        }
        // Not under the lock: it reads the machine's certificates.
        let client = Self::build(&endpoint)?;
        lock(&self.clients).insert(endpoint, (auth.clone(), client.clone()));
        Ok(client)
    }

    fn build(endpoint: &Endpoint) -> Result<Client> {
        let config = |tls_certs_only| ClientConfig {
            protocol: if endpoint.plain_http {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            tls_certs_only,
            // The choice is ours (`platform`); without a resolver the client never chooses.
            platform_resolver: None,
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: concat!("bismuth/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let failed = |error: OciDistributionError| ImageError::ClientSetup {
            registry: endpoint.name(),
            reason: chain(&error),
        };
        match Client::try_from(config(Vec::new())) {
            Ok(client) => Ok(client),
            Err(error) => {
                tracing::warn!(registry = %endpoint.name(), error = %chain(&error), "using the bundled certificate authorities");
                Client::try_from(config(bundled_authorities())).map_err(failed)
            }
        }
    }
}

fn bundled_authorities() -> Vec<Certificate> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS
        .iter()
        .map(|der| Certificate {
            encoding: CertificateEncoding::Der,
            data: der.to_vec(),
        })
        .collect()
}

impl Remote {
    /// How the endpoint is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest of what the reference names now.
    pub async fn head(&self) -> Result<Digest> {
        let act = "get digest";
        let text = self
            .authenticated(act, || {
                self.client
                    .fetch_manifest_digest(&self.reference, &self.auth)
            })
            .await?;
        Digest::parse(&text).map_err(|e| self.refused(act, e.to_string()))
    }

    /// The manifest or index that the reference names, or the one with `digest` in the same repository.
    pub async fn manifest(&self, digest: Option<&Digest>) -> Result<(Bytes, Digest)> {
        let reference = match digest {
            None => self.reference.clone(),
            Some(digest) => self.reference.clone_with_digest(digest.to_string()),
        };
        let pull = || {
            self.client
                .pull_manifest_raw(&reference, &self.auth, ACCEPTED)
        };
        let (body, _) = self.authenticated("get manifest", pull).await?;
        // `oci-client` has checked the body against a digest in the reference; the name of what a tag led to is our own sum.
        let digest = match reference.digest() {
            Some(text) => {
                Digest::parse(text).map_err(|e| self.refused("get manifest", e.to_string()))?
            }
            None => Digest::of(&body),
        };
        Ok((body, digest))
    }

    /// A blob's content from `offset` on.
    pub async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream> {
        let act = format!("get blob {digest}");
        if offset == 0 {
            let pull = || {
                self.client
                    .pull_blob_stream(&self.reference, digest.as_str())
            };
            let sized = self.authenticated(&act, pull).await?;
            return Ok(BlobStream {
                offset: 0,
                stream: sized.stream,
            });
        }
        let pull = || {
            self.client
                .pull_blob_stream_partial(&self.reference, digest.as_str(), offset, None)
        };
        Ok(match self.authenticated(&act, pull).await? {
            BlobResponse::Partial(sized) => BlobStream {
                offset,
                stream: sized.stream,
            },
            BlobResponse::Full(sized) => BlobStream {
                offset: 0,
                stream: sized.stream,
            },
        })
    }

    /// Makes a request; when the registry wants (fresh) authentication, gets it and makes the request once more. This is also
    /// where a token server's words come from: `oci-client` swallows them on its implicit path.
    async fn authenticated<T, F>(&self, act: &str, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = oci_client::errors::Result<T>>,
    {
        match request().await {
            Err(OciDistributionError::UnauthorizedError { .. }) => {}
            other => return other.map_err(|error| self.image_error(act, error)),
        }
        let authenticate = self
            .client
            .auth(&self.reference, &self.auth, RegistryOperation::Pull);
        authenticate
            .await
            .map_err(|error| self.image_error(act, error))?;
        request()
            .await
            .map_err(|error| self.image_error(act, error))
    }
}
