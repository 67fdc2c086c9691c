//! Makes a connection pool from a URL.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio_postgres::config::Host;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::passfile;

/// Connections of one node: more would only wait for each other in the server.
const CONNECTIONS: usize = 16;
/// How long it may take to get one. Below the bound of a call, so that the error says what was waited for.
const CONNECT_BOUND: Duration = Duration::from_millis(900);
/// A connection on which nothing comes back for so long is dead: the server's machine is gone.
const DEAD_AFTER: Duration = Duration::from_secs(10);
/// The server gives up what we have given up, so that no lock is held for somebody who is gone.
const SESSION: &str = "SET statement_timeout = '1s'; SET lock_timeout = '1s'; SET idle_in_transaction_session_timeout = '2s'";

/// Why a URL is not used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    /// It is no URL of a PostgreSQL server. (It is not shown: it may have a password.)
    #[error("the URL of the PostgreSQL server cannot be used")]
    Url(#[source] Box<tokio_postgres::Error>),
    #[error("read the authorities in {path}")]
    Authorities {
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path} has no authority that can be used")]
    NoAuthority { path: PathBuf },
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("read the passwords in {path}")]
    Passwords {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("set up the pool of connections: {0}")]
    Pool(String),
}

pub(super) fn pool(url: &str) -> Result<Pool, ConfigError> {
    let (url, authorities) = take_authorities(url);
    let config = tokio_postgres::Config::from_str(&url);
    let mut config = config.map_err(|error| ConfigError::Url(Box::new(error)))?;
    if config.get_password().is_none()
        && let Some(password) = password(&config)?
    {
        config.password(password);
    }
    if config.get_application_name().is_none() {
        config.application_name("svcprovider");
    }
    config.connect_timeout(CONNECT_BOUND);
    config.tcp_user_timeout(DEAD_AFTER);
    config.keepalives_idle(DEAD_AFTER);
    let manager = Manager::from_config(
        config,
        MakeRustlsConnect::new(tls(authorities)?),
        ManagerConfig {
            // Whether it is open; what else may be wrong is seen when it is used.
            recycling_method: RecyclingMethod::Fast,
        },
    );
    let pool = Pool::builder(manager)
        .runtime(Runtime::Tokio1)
        .max_size(CONNECTIONS)
        .wait_timeout(Some(CONNECT_BOUND))
        .create_timeout(Some(CONNECT_BOUND))
        .recycle_timeout(Some(CONNECT_BOUND))
        .post_create(Hook::async_fn(|client, _| {
            Box::pin(async move {
                // Not every server that speaks the protocol knows all of these.
                if let Err(error) = client.batch_execute(SESSION).await {
                    tracing::debug!(%error, "the server's bounds are not set");
                }
                Ok(())
            })
        }))
        .build();
    pool.map_err(|error| ConfigError::Pool(error.to_string()))
}

/// Takes `sslrootcert` and the modes of libpq that say how much is checked out of the URL: the library knows neither, and everything is checked.
fn take_authorities(url: &str) -> (String, Option<PathBuf>) {
    let Some((address, query)) = url.split_once('?') else {
        return (url.to_owned(), None);
    };
    let mut authorities = None;
    let mut kept = Vec::new();
    for param in query.split('&') {
        match param.split_once('=') {
            Some(("sslrootcert", path)) => authorities = Some(PathBuf::from(path)),
            Some(("sslmode", "verify-full" | "verify-ca")) => kept.push("sslmode=require"),
            _ => kept.push(param),
        }
    }
    (format!("{address}?{}", kept.join("&")), authorities)
}

fn tls(authorities: Option<PathBuf>) -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        None => {
            roots.add_parsable_certificates(
                webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned(),
            );
        }
        Some(path) => {
            let found = CertificateDer::pem_file_iter(&path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let found = found.map_err(|source| {
                let path = path.clone();
                ConfigError::Authorities { path, source }
            })?;
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err(ConfigError::NoAuthority { path });
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(ConfigError::Tls)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The password that is not in the URL.
fn password(config: &tokio_postgres::Config) -> Result<Option<String>, ConfigError> {
    if let Ok(password) = std::env::var("PGPASSWORD") {
        return Ok(Some(password));
    }
    let Some(path) = std::env::var_os("PGPASSFILE") else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    let text = std::fs::read_to_string(&path);
    let text = text.map_err(|source| ConfigError::Passwords { path, source })?;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        // As libpq has it.
        Some(Host::Unix(_)) | None => "localhost".to_owned(),
    };
    let port = config
        .get_ports()
        .first()
        .copied()
        .unwrap_or(5432)
        .to_string();
    let user = config.get_user().unwrap_or_default();
    let database = config.get_dbname().unwrap_or(user);
    Ok(passfile::find(&text, [&host, &port, database, user]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_libpq_knows_is_taken_out_of_a_url() {
        let (url, authorities) = take_authorities(
            "postgres://u@h/d?sslmode=verify-full&sslrootcert=/etc/ca.pem&connect_timeout=3",
        );
        assert_eq!(url, "postgres://u@h/d?sslmode=require&connect_timeout=3");
        assert_eq!(authorities, Some("/etc/ca.pem".into()));
        assert_eq!(
            take_authorities("postgres://u@h/d"),
            ("postgres://u@h/d".into(), None)
        );
        pool("postgres://u@h/d?sslmode=verify-full").unwrap();
    }

    #[test]
    fn an_error_about_a_url_does_not_show_its_password() {
        let error = pool("postgres://u:hunter2@h:port/d").unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
