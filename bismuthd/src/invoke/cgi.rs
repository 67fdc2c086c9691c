//! Turns a request into environment variables, by RFC 3875, The Common Gateway Interface. Pure.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use http::request::Parts;

/// Headers that do not become `HTTP_…`: two have variables of their own, and `Proxy` would become
/// `HTTP_PROXY`, which many HTTP libraries obey (CVE-2016-5385, "httpoxy").
fn is_left_out(name: &HeaderName) -> bool {
    *name == CONTENT_TYPE
        || *name == CONTENT_LENGTH
        || name.as_str() == "proxy"
        // X_A and X-A would become one variable, so that a client could pretend the other's value.
        || name.as_str().contains('_')
}

/// The variables that describe a request, `NAME=value` each.
///
/// `path` is the rest of the path after the function's own part, percent-encoded as it came.
pub fn variables(head: &Parts, path: &str, request_id: &[u8]) -> Vec<Vec<u8>> {
    let mut variables = Vec::with_capacity(12 + head.headers.len());
    let mut set = |name: &str, value: &[u8]| {
        // A NUL would end the value early for the program; HTTP forbids it in headers, a
        // percent-encoded path may have one.
        if !value.contains(&0) {
            variables.push([name.as_bytes(), b"=", value].concat());
        }
    };
    set("GATEWAY_INTERFACE", b"CGI/1.1");
    set("SERVER_PROTOCOL", b"HTTP/1.1");
    set("SERVER_SOFTWARE", b"bismuth");
    set("REQUEST_METHOD", head.method.as_str().as_bytes());
    set("QUERY_STRING", head.uri.query().unwrap_or("").as_bytes());
    set("PATH_INFO", &percent_decoded(path));
    let target = head.uri.path_and_query().map_or("/", |pq| pq.as_str());
    set("REQUEST_URI", target.as_bytes());
    set("BISMUTH_REQUEST_ID", request_id);
    for (name, variable) in [
        (CONTENT_TYPE, "CONTENT_TYPE"),
        (CONTENT_LENGTH, "CONTENT_LENGTH"),
    ] {
        if let Some(value) = head.headers.get(name) {
            set(variable, value.as_bytes());
        }
    }
    if let Some(address) = remote_address(&head.headers) {
        set("REMOTE_ADDR", address);
    }
    for name in head.headers.keys().filter(|name| !is_left_out(name)) {
        let variable = name.as_str().to_ascii_uppercase().replace('-', "_");
        let values = head.headers.get_all(name).iter();
        let values: Vec<&[u8]> = values.map(|v| v.as_bytes()).collect();
        set(&format!("HTTP_{variable}"), &values.join(&b", "[..]));
    }
    variables
}

/// The last address that a proxy of ours wrote: the one that connected to the frontend.
fn remote_address(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get_all("x-forwarded-for").iter().next_back()?;
    value
        .as_bytes()
        .rsplit(|b| *b == b',')
        .next()
        .map(<[u8]>::trim_ascii)
}

/// `%41` becomes `A`; what is no valid escape stays as it is.
fn percent_decoded(path: &str) -> Vec<u8> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let hex = escape
            .and_then(|e| std::str::from_utf8(e).ok())
            .filter(|e| e.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn of(request: http::request::Builder, path: &str) -> Vec<String> {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut all: Vec<_> = variables(&parts, path, b"r1")
            .into_iter()
            .map(|v| String::from_utf8(v).unwrap())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_request_becomes_the_documented_variables() {
        let request = Request::post("/a%20b/c?x=1&y=%20")
            .header("content-type", "text/plain")
            .header("content-length", "5")
            .header("x-forwarded-for", "6.6.6.6, 10.0.0.1")
            .header("accept", "a")
            .header("accept", "b");
        assert_eq!(
            of(request, "/a%20b/c"),
            [
                "BISMUTH_REQUEST_ID=r1",
                "CONTENT_LENGTH=5",
                "CONTENT_TYPE=text/plain",
                "GATEWAY_INTERFACE=CGI/1.1",
                "HTTP_ACCEPT=a, b",
                "HTTP_X_FORWARDED_FOR=6.6.6.6, 10.0.0.1",
                "PATH_INFO=/a b/c",
                "QUERY_STRING=x=1&y=%20",
                "REMOTE_ADDR=10.0.0.1",
                "REQUEST_METHOD=POST",
                "REQUEST_URI=/a%20b/c?x=1&y=%20",
                "SERVER_PROTOCOL=HTTP/1.1",
                "SERVER_SOFTWARE=bismuth",
            ]
        );
    }

    #[test]
    fn a_client_can_set_neither_a_proxy_nor_somebody_elses_header() {
        let request = Request::get("/")
            .header("proxy", "http://evil")
            .header("x_real", "1");
        assert!(
            !of(request, "/")
                .iter()
                .any(|v| v.contains("PROXY=") || v.contains("X_REAL"))
        );
    }

    #[test]
    fn an_invalid_percent_escape_is_kept_and_a_nul_is_left_out() {
        assert_eq!(percent_decoded("/%4"), b"/%4");
        assert_eq!(percent_decoded("/%zz%41%+1"), b"/%zzA%+1");
        assert!(
            !of(Request::get("/%00"), "/%00")
                .iter()
                .any(|v| v.starts_with("PATH_INFO"))
        );
    }
}
