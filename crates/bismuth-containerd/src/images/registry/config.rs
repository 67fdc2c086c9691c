//! Configuration of registries: mirrors, plain HTTP, retries.
//!
//! ```text
//!   docker.io/library/alpine ──► hosts["docker.io"] configured?
//!         no  ──► the registry itself, by HTTPS (plain HTTP if it is this machine's loopback)
//!         yes ──► its endpoints, in the order given, and nothing else; `origin` among them is the registry itself
//! ```
//!
//! A mirror is asked for the same repository path ("library/alpine"). The origin is contacted only if it is listed: a
//! site without internet access then fails fast, and nobody is told unasked which images it runs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use bismuth_base::Backoff;

/// For each registry host as it stands in image references, the endpoints to pull from, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    hosts: BTreeMap<String, Vec<Endpoint>>,
}

/// Text of a `--registry-mirror` flag: `HOST=URL`, for instance `docker.io=http://127.0.0.1:5000`. The URL is
/// `http://host:port`, `https://host/prefix`, `host:port`, or `origin` for the registry itself. A path is put before the
/// repository's (registries that proxy others under a project name).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryMirror {
    host: String,
    endpoint: Endpoint,
}

/// A registry setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("registry endpoint {text:?}: {reason}")]
pub struct InvalidEndpoint {
    text: String,
    reason: &'static str,
}

impl FromStr for RegistryMirror {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = |reason| InvalidEndpoint {
            text: text.to_owned(),
            reason,
        };
        let (host, url) = text
            .split_once('=')
            .ok_or_else(|| invalid("expected HOST=URL, like docker.io=http://127.0.0.1:5000"))?;
        if host.is_empty() || host.contains('/') {
            return Err(invalid(
                "the part before = must be a registry host, like docker.io",
            ));
        }
        Ok(Self {
            host: host.to_owned(),
            endpoint: Endpoint::parse(host, url)?,
        })
    }
}

/// An endpoint with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// `host[:port]`
    pub host: String,
    pub plain_http: bool,
    /// Put before the repository; without slashes at its ends, may be empty.
    pub prefix: String,
}

impl Endpoint {
    /// How the endpoint is called in messages.
    pub fn name(&self) -> String {
        let scheme = if self.plain_http { "http" } else { "https" };
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("{scheme}://{}{slash}{}", self.host, self.prefix)
    }

    fn origin(registry: &str) -> Self {
        Self {
            host: registry.to_owned(),
            plain_http: is_loopback(registry),
            prefix: String::new(),
        }
    }

    fn parse(registry: &str, url: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = |reason| InvalidEndpoint {
            text: url.to_owned(),
            reason,
        };
        if url == "origin" {
            return Ok(Self::origin(registry));
        }
        let (scheme, rest) = url
            .split_once("://")
            .map_or((None, url), |(s, r)| (Some(s), r));
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let prefix = prefix
            .strip_prefix("v2/")
            .unwrap_or(if prefix == "v2" { "" } else { prefix });
        let legal = |b: u8| {
            b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_')
        };
        if host.is_empty() || !host.bytes().all(legal) {
            return Err(invalid(
                "expected http://HOST[:PORT] or https://HOST[:PORT]",
            ));
        }
        let plain_http = match scheme {
            Some("http") => true,
            Some("https") => false,
            None => is_loopback(host),
            Some(_) => return Err(invalid("the scheme must be http or https")),
        };
        Ok(Self {
            host: host.to_owned(),
            plain_http,
            prefix: prefix.to_owned(),
        })
    }
}

impl RegistryConfig {
    /// Adds what `--registry-mirror` flags say, after what is there already.
    pub fn add_mirrors(&mut self, mirrors: impl IntoIterator<Item = RegistryMirror>) {
        for mirror in mirrors {
            self.hosts
                .entry(mirror.host)
                .or_default()
                .push(mirror.endpoint);
        }
    }

    /// The endpoints for images of `registry`, in the order in which they are to be tried.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let configured = self.hosts.get(registry).cloned();
        configured.unwrap_or_else(|| vec![Endpoint::origin(registry)])
    }
}

/// Registries on this machine speak plain HTTP unless told otherwise, as for Docker and containerd: nobody has a
/// certificate for 127.0.0.1.
fn is_loopback(host_and_port: &str) -> bool {
    let host = match host_and_port.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host_and_port.split(':').next().unwrap_or(host_and_port),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// How failures of registries that may pass are met. Every number is a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts at one request in a row without any progress, the first included.
    pub attempts: u32,
    /// The waits between them.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    /// About 10 s in all: longer than a registry's restart behind a load balancer, shorter than a person's patience.
    fn default() -> Self {
        Self {
            attempts: 6,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(5)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(config: &RegistryConfig, registry: &str) -> Vec<String> {
        let endpoints = config.endpoints(registry);
        endpoints.iter().map(Endpoint::name).collect()
    }

    #[test]
    fn an_unconfigured_registry_is_its_own_endpoint() {
        let config = RegistryConfig::default();
        assert_eq!(names(&config, "ghcr.io"), ["https://ghcr.io"]);
        for local in ["localhost:5000", "127.0.0.3:5000", "[::1]:5000"] {
            assert_eq!(names(&config, local), [format!("http://{local}")]);
        }
    }

    #[test]
    fn mirrors_replace_the_origin_unless_it_is_listed() {
        let mut config = RegistryConfig::default();
        let flags = [
            "docker.io=http://127.0.0.1:5000",
            "docker.io=https://mirror.example/v2/hub",
            "docker.io=origin",
        ];
        config.add_mirrors(flags.iter().map(|flag| flag.parse().expect("flag")));
        let expected = [
            "http://127.0.0.1:5000",
            "https://mirror.example/hub",
            "https://docker.io",
        ];
        assert_eq!(names(&config, "docker.io"), expected);
    }

    #[test]
    fn nonsense_is_refused_at_the_flag() {
        for flag in [
            "docker.io",
            "=http://x",
            "docker.io=ftp://x",
            "docker.io=http://",
            "a/b=http://x",
            "docker.io=http://user@x",
        ] {
            assert!(flag.parse::<RegistryMirror>().is_err(), "{flag}");
        }
    }
}
