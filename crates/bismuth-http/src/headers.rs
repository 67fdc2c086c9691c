//! Header rules of a proxy: hop-by-hop fields are removed, `X-Forwarded-*` is added, `X-Bismuth-*` is reserved.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, StatusCode};

pub use crate::trace::{request_id, server_timing, traceparent};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// `X-Forwarded-For`.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Forwarded-Prefix`.
pub const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// `X-Bismuth-Container-ID`: which container answered.
pub const CONTAINER_ID: HeaderName = HeaderName::from_static("x-bismuth-container-id");

/// Names that begin so are ours: stripped from what clients ask and from what functions answer.
const RESERVED_PREFIX: &str = "x-bismuth-";

/// Removes every field that concerns one connection only (RFC 9110 section 7.6.1): those named in
/// `Connection`, and those that old peers forget to name there.
///
/// `Trailer` stays: it describes the message, and hyper sends no trailers without it.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in named_in_connection(headers) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// The field names that `Connection` lists, without those that a sender cannot make hop-by-hop because
/// the message would mean something else without them.
fn named_in_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH && *name != CONNECTION)
        .collect()
}

/// Readies a request's head for the next hop: hop-by-hop fields go, and the two that this hop means itself
/// come back: `TE: trailers`, and `Upgrade` when the client asks for one. Returns whether it does.
pub fn strip_request(headers: &mut HeaderMap) -> bool {
    let upgrade = requested_upgrade(headers);
    let trailers = headers.contains_key(TE) && has_token(headers, &TE, "trailers");
    strip_hop_by_hop(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let connection = match (&upgrade, trailers) {
        (Some(_), true) => Some("te, upgrade"),
        (Some(_), false) => Some("upgrade"),
        (None, true) => Some("te"),
        (None, false) => None,
    };
    if let Some(connection) = connection {
        headers.insert(CONNECTION, HeaderValue::from_static(connection));
    }
    let upgrading = upgrade.is_some();
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
    }
    upgrading
}

/// Readies a response's head for the previous hop. `101` keeps its `Upgrade`.
pub fn strip_response(status: StatusCode, headers: &mut HeaderMap) {
    let upgrade = match status {
        StatusCode::SWITCHING_PROTOCOLS => headers.get(UPGRADE).cloned(),
        _ => None,
    };
    strip_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// Removes every `x-bismuth-*` field, so that the next hop may trust those it finds.
pub fn strip_reserved(headers: &mut HeaderMap) {
    let is_reserved = |name: &HeaderName| name.as_str().starts_with(RESERVED_PREFIX);
    if headers.keys().any(is_reserved) {
        let reserved: Vec<_> = headers.keys().filter(|n| is_reserved(n)).cloned().collect();
        for name in reserved {
            headers.remove(name);
        }
    }
}

/// The protocol that the request asks to switch to, if it asks properly (`Connection: upgrade` too).
fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    has_token(headers, &CONNECTION, "upgrade").then(|| protocol.clone())
}

/// Whether a comma-separated field holds this token; parameters after `;` are ignored.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|item| item.split(';').next())
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// What `X-Forwarded-*` says about the hop before this one.
#[derive(Debug, Clone, Copy)]
pub struct Forwarded<'a> {
    /// Who connected to us.
    pub peer: IpAddr,
    /// `http` or `https`, as the client spoke it to us.
    pub proto: &'static str,
    /// The `Host` that the client named.
    pub host: Option<&'a HeaderValue>,
    /// The part of the path that was taken off in front (`/invoke/<id>`).
    pub prefix: Option<&'a str>,
    /// Whether the peer is a proxy of the operator's, whose own `X-Forwarded-*` are true.
    pub trust_peer: bool,
}

/// Adds `X-Forwarded-For/Proto/Host/Prefix`.
///
/// `For` is appended to what the peer said, as every proxy does: the last entry is the one we saw
/// ourselves. The others replace the peer's word unless it is trusted.
pub fn add_forwarded(headers: &mut HeaderMap, forwarded: &Forwarded<'_>) {
    append_for(headers, forwarded.peer);
    let mut set = |name: HeaderName, value: Option<HeaderValue>| {
        if forwarded.trust_peer && headers.contains_key(&name) {
            return;
        }
        match value {
            Some(value) => drop(headers.insert(name, value)),
            None => drop(headers.remove(name)),
        }
    };
    set(
        FORWARDED_PROTO,
        Some(HeaderValue::from_static(forwarded.proto)),
    );
    set(FORWARDED_HOST, forwarded.host.cloned());
    let prefix = forwarded.prefix.map(HeaderValue::from_str);
    set(FORWARDED_PREFIX, prefix.and_then(Result::ok));
}

fn append_for(headers: &mut HeaderMap, peer: IpAddr) {
    let peer = peer.to_canonical();
    let mut list = String::new();
    for value in headers.get_all(FORWARDED_FOR) {
        if let Ok(value) = value.to_str()
            && !value.trim().is_empty()
        {
            list.push_str(value.trim());
            list.push_str(", ");
        }
    }
    list.push_str(&peer.to_string());
    if let Ok(value) = HeaderValue::from_str(&list) {
        headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn fields_named_in_connection_go_and_those_the_message_needs_stay() {
        let mut headers = map(&[
            ("connection", "close, X-Private"),
            ("connection", "host, content-length"),
            ("x-private", "1"),
            ("keep-alive", "5"),
            ("proxy-authorization", "secret"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("host", "a"),
            ("content-length", "3"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left.len(), 4, "{left:?}");
        for name in ["trailer", "host", "content-length", "accept"] {
            assert!(headers.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_request_keeps_the_hop_fields_that_this_hop_means_itself() {
        let mut headers = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("te", "gzip;q=0.5, Trailers"),
        ]);
        assert!(strip_request(&mut headers));
        assert_eq!(headers["connection"], "te, upgrade");
        assert_eq!(headers["upgrade"], "websocket");
        assert_eq!(headers["te"], "trailers");

        let mut headers = map(&[("upgrade", "h2c")]);
        assert!(!strip_request(&mut headers));
        assert!(headers.is_empty());
    }

    #[test]
    fn only_a_101_keeps_its_upgrade() {
        for (status, kept) in [(101, true), (200, false), (426, false)] {
            let mut headers = map(&[("connection", "upgrade"), ("upgrade", "websocket")]);
            strip_response(StatusCode::from_u16(status).unwrap(), &mut headers);
            assert_eq!(headers.contains_key("upgrade"), kept, "{status}");
            assert_eq!(headers.contains_key("connection"), kept, "{status}");
        }
    }

    #[test]
    fn reserved_headers_are_removed_from_what_others_send() {
        let mut headers = map(&[("x-bismuth-error", "unknown_container"), ("x-other", "1")]);
        strip_reserved(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn forwarded_fields_append_the_peer_and_replace_what_the_client_sent() {
        let mut headers = map(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/admin"),
        ]);
        let host = HeaderValue::from_static("a.example");
        let mut forwarded = Forwarded {
            peer: "::ffff:3.3.3.3".parse().unwrap(),
            proto: "http",
            host: Some(&host),
            prefix: None,
            trust_peer: false,
        };
        let mut untrusted = headers.clone();
        add_forwarded(&mut untrusted, &forwarded);
        assert_eq!(untrusted["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 3.3.3.3");
        assert_eq!(untrusted["x-forwarded-proto"], "http");
        assert_eq!(untrusted["x-forwarded-host"], "a.example");
        assert!(!untrusted.contains_key("x-forwarded-prefix"));

        forwarded.trust_peer = true;
        add_forwarded(&mut headers, &forwarded);
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-prefix"], "/admin");
    }
}
