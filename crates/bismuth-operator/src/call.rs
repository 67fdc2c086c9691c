//! A call of the operator API: method, path, query and headers.

use std::fmt::Write as _;

use bismuth_model::ServiceGroup;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// One request, without its body.
#[derive(Clone, Debug)]
pub struct Call {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    /// It is answered when much is done.
    pub(crate) is_long_running: bool,
}

impl Call {
    /// A call to a path that is percent-encoded where it must be.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            target: path.into(),
            headers: HeaderMap::new(),
            is_long_running: false,
        }
    }

    /// Seals every data key anew, under the current master key.
    #[must_use]
    pub fn rewrap() -> Self {
        Self::new(Method::POST, "/rewrap").long_running()
    }

    /// The end of all that a group has.
    #[must_use]
    pub fn purge(group: &ServiceGroup) -> Self {
        Self::group(Method::DELETE, group).long_running()
    }

    fn long_running(mut self) -> Self {
        self.is_long_running = true;
        self
    }

    /// A call about a group as a whole.
    pub fn group(method: Method, group: &ServiceGroup) -> Self {
        Self::new(method, format!("/group/{group}"))
    }

    /// A call about the secrets of a group.
    pub fn secrets(method: Method, group: &ServiceGroup) -> Self {
        Self::new(method, format!("/group/{group}/secret"))
    }

    /// A call about one secret.
    pub fn secret(method: Method, group: &ServiceGroup, name: &str) -> Self {
        Self::new(method, format!("/group/{group}/secret/{}", segment(name)))
    }

    /// A new value for a secret that is there.
    pub fn rotate(group: &ServiceGroup, name: &str) -> Self {
        let mut call = Self::secret(Method::POST, group, name);
        call.target.push_str("/rotate");
        call
    }

    /// A call about a key, or with an empty one about all keys.
    pub fn kv(method: Method, group: &ServiceGroup, key: &str) -> Self {
        Self::new(method, format!("/group/{group}/kv/v1/{}", path(key)))
    }

    /// A call about a blob, or with an empty key about all blobs.
    pub fn blob(method: Method, group: &ServiceGroup, key: &str) -> Self {
        Self::new(method, format!("/group/{group}/blob/v1/{}", path(key)))
    }

    /// The same with a word added to the path, such as `incr`.
    #[must_use]
    pub fn with_segment(mut self, word: &str) -> Self {
        self.target.push('/');
        self.target.push_str(word);
        self
    }

    /// The same with a query parameter, whose value may be any text.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let sign = if self.target.contains('?') { '&' } else { '?' };
        self.target.push(sign);
        self.target.push_str(name);
        self.target.push('=');
        self.target.push_str(&segment(value));
        self
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// A key: its slashes stay.
fn path(key: &str) -> String {
    key.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// Text as one segment of a path, or as a value in a query: all but the unreserved of RFC 3986 as `%XX`.
#[must_use]
pub fn segment(text: &str) -> String {
    // Segments of dots only are taken out of paths, so that they must not look like it.
    let dots = matches!(text, "." | "..");
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && !dots) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_characters_are_escaped() {
        for (text, expected) in [
            ("plain-Name_1.x~", "plain-Name_1.x~"),
            ("a b", "a%20b"),
            ("a/b", "a%2Fb"),
            ("?&=#%+", "%3F%26%3D%23%25%2B"),
            ("ä", "%C3%A4"),
            ("..", "%2E%2E"),
            ("...", "..."),
            ("", ""),
        ] {
            assert_eq!(segment(text), expected);
        }
    }

    #[test]
    fn keys_keep_their_slashes_and_names_have_none() {
        let group: ServiceGroup = "g".parse().unwrap();
        let target = |call: Call| call.target;
        assert_eq!(
            target(Call::kv(Method::GET, &group, "a b/c?")),
            "/group/g/kv/v1/a%20b/c%3F"
        );
        assert_eq!(
            target(Call::rotate(&group, "a/b")),
            "/group/g/secret/a%2Fb/rotate"
        );
        let listed = Call::blob(Method::GET, &group, "")
            .query("prefix", "a/&")
            .query("limit", "2");
        assert_eq!(target(listed), "/group/g/blob/v1/?prefix=a%2F%26&limit=2");
    }
}
