//! Refuses requests from web pages: checks `Host` against DNS rebinding and `Origin` against cross-site requests.
//!
//! There is no authentication, and a browser on this machine reaches loopback for any page that it shows. So two kinds
//! of requests are refused: those that say they come from a page of another origin (programs send no `Origin`), and,
//! while the API listens on loopback, those for a name that nobody gave it. A page can have its own name lead to
//! 127.0.0.1 (DNS rebinding), and then its origin is the API's; but its name is still its own.

use std::net::{IpAddr, SocketAddr};

use bismuth_model::Hostname;
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode};

use crate::problem::Problem;

/// Which `Host` and `Origin` are refused.
#[derive(Debug)]
pub(crate) struct OriginCheck {
    /// Whether any name will do: whoever listens on a network has its own names for this.
    any_host: bool,
    names: Vec<Hostname>,
}

impl OriginCheck {
    /// For an API that listens there and has these host names.
    pub(crate) fn new(listen: SocketAddr, names: Vec<Hostname>) -> Self {
        Self {
            any_host: !listen.ip().is_loopback(),
            names,
        }
    }

    /// Why a request is refused, if it is.
    pub(crate) fn refuse(&self, method: &Method, headers: &HeaderMap) -> Option<Problem> {
        let host = headers.get(HOST).map_or(&b""[..], |host| host.as_bytes());
        if !self.is_allowed_host(host) {
            let host = String::from_utf8_lossy(host);
            let detail = format!(
                "{host:?} is not a name of this API; --hostname gives it one, and addresses and localhost always work"
            );
            let status = StatusCode::MISDIRECTED_REQUEST;
            return Some(Problem::new(status, "foreign_host", detail));
        }
        let origin = headers.get(ORIGIN)?;
        let own = origin
            .as_bytes()
            .strip_prefix(b"http://")
            .is_some_and(|rest| rest.eq_ignore_ascii_case(host));
        if own || method.is_safe() {
            return None;
        }
        let detail = format!("the request comes from a web page of another origin ({origin:?})");
        let status = StatusCode::FORBIDDEN;
        Some(Problem::new(status, "foreign_origin", detail))
    }

    fn is_allowed_host(&self, host: &[u8]) -> bool {
        // HTTP/1.0 programs send none; browsers always do.
        if self.any_host || host.is_empty() {
            return true;
        }
        let Ok(authority) = Authority::try_from(host) else {
            return false;
        };
        let name = authority.host();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if bare.parse::<IpAddr>().is_ok() {
            return true;
        }
        Hostname::parse(name)
            .is_ok_and(|name| name.as_str() == "localhost" || self.names.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(listen: &str, method: Method, host: &str, origin: Option<&str>) -> Option<String> {
        let names = vec![Hostname::parse("api.internal").unwrap()];
        let origin_check = OriginCheck::new(listen.parse().unwrap(), names);
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        origin_check
            .refuse(&method, &headers)
            .map(|problem| problem.code.to_string())
    }

    #[test]
    fn on_loopback_a_host_that_is_not_its_own_is_refused() {
        for host in [
            "127.0.0.1:8002",
            "[::1]:8002",
            "localhost",
            "LOCALHOST:8002",
            "api.internal:8002",
        ] {
            let refused = refusal("127.0.0.1:8002", Method::POST, host, None);
            assert_eq!(refused, None, "{host}");
        }
        for host in [
            "evil.example:8002",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "@",
        ] {
            for method in [Method::GET, Method::POST] {
                let origin = format!("http://{host}");
                let refused = refusal("127.0.0.1:8002", method, host, Some(&origin));
                assert_eq!(refused, Some("foreign_host".to_owned()), "{host}");
            }
        }
    }

    #[test]
    fn on_a_network_any_host_is_allowed_and_a_foreign_origin_is_refused() {
        let foreign = Some("http://evil.example");
        for (method, origin, refused) in [
            (Method::POST, None, None),
            (Method::POST, Some("http://api.corp"), None),
            (Method::POST, foreign, Some("foreign_origin")),
            (Method::GET, foreign, None),
        ] {
            let code = refusal("10.0.0.7:8002", method.clone(), "api.corp", origin);
            assert_eq!(code.as_deref(), refused, "{method} {origin:?}");
        }
    }
}
