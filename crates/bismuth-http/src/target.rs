//! Checks the target of a request: one valid `Host`, agreeing with an absolute target (RFC 9112 section 3.2).

use http::header::HOST;
use http::{Method, Request, Version};

/// Why a request does not say clearly whom it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// HTTP/1.1 without `Host`.
    #[error("the request has no Host field")]
    NoHost,
    /// More than one `Host`.
    #[error("the request has several Host fields")]
    SeveralHosts,
    /// A `Host` that is no host with an optional port.
    #[error("the Host field is not a host name or address with an optional port")]
    InvalidHost,
    /// An absolute target that names another host than `Host` does.
    #[error("the request target and the Host field name different hosts")]
    Conflict,
    /// `CONNECT`: this is no forward proxy.
    #[error("CONNECT is not served here")]
    Connect,
    /// An absolute target with a scheme other than `http` or `https`.
    #[error("the request target has an unknown scheme")]
    Scheme,
}

/// Checks the head; what passes has at most one, valid `Host` (none only in HTTP/1.0).
pub fn check<B>(request: &Request<B>) -> Result<(), TargetError> {
    if request.method() == Method::CONNECT {
        return Err(TargetError::Connect);
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.as_bytes()),
        (Some(_), Some(_)) => return Err(TargetError::SeveralHosts),
        (None, _) if request.version() == Version::HTTP_10 => None,
        (None, _) => return Err(TargetError::NoHost),
    };
    if host.is_some_and(|host| !is_host_and_port(host)) {
        return Err(TargetError::InvalidHost);
    }
    let uri = request.uri();
    if let Some(authority) = uri.authority() {
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(TargetError::Scheme);
        }
        if host.is_some_and(|host| !host.eq_ignore_ascii_case(authority.as_str().as_bytes())) {
            return Err(TargetError::Conflict);
        }
    }
    Ok(())
}

/// `uri-host [":" port]` of RFC 3986, without percent-encoding and user information: what a name in
/// the routing table could be, or an address. An empty one is valid in HTTP but names nothing.
fn is_host_and_port(value: &[u8]) -> bool {
    let (host, port) = match value.first() {
        Some(b'[') => match value.iter().position(|b| *b == b']') {
            Some(end) => (&value[..=end], &value[end + 1..]),
            None => return false,
        },
        _ => match value.iter().position(|b| *b == b':') {
            Some(colon) => value.split_at(colon),
            None => (value, &b""[..]),
        },
    };
    let port_is_valid = match port.split_first() {
        None => true,
        Some((b':', digits)) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    };
    let host_is_valid = match host {
        [b'[', address @ .., b']'] => std::str::from_utf8(address)
            .is_ok_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        name => name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')),
    };
    host_is_valid && port_is_valid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, hosts: &[&str]) -> Request<()> {
        let mut builder = Request::builder().uri(target);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn one_valid_host_passes() {
        for host in [
            "a",
            "a.example:80",
            "127.0.0.1:8000",
            "[::1]:8000",
            "[::1]",
            "",
            "A_b~c.",
        ] {
            assert_eq!(check(&request("/", &[host])), Ok(()), "{host}");
        }
        assert_eq!(
            check(&request("http://A.example/x", &["a.example"])),
            Ok(())
        );
    }

    #[test]
    fn an_ambiguous_target_is_refused_with_its_reason() {
        for host in [
            "a b", "a/b", "user@a", "a:b", "a:80:80", "[::1", "[x]", "a:123456", "a,b", "é",
        ] {
            assert_eq!(
                check(&request("/", &[host])),
                Err(TargetError::InvalidHost),
                "{host}"
            );
        }
        assert_eq!(check(&request("/", &[])), Err(TargetError::NoHost));
        assert_eq!(
            check(&request("/", &["a", "a"])),
            Err(TargetError::SeveralHosts)
        );
        assert_eq!(
            check(&request("http://a/", &["b"])),
            Err(TargetError::Conflict)
        );
        assert_eq!(
            check(&request("ftp://a/", &["a"])),
            Err(TargetError::Scheme)
        );
    }

    #[test]
    fn only_http_1_0_may_come_without_host() {
        let mut old = request("/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(check(&old), Ok(()));
    }
}
