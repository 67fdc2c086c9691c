//! Conversions that the checked string types share.

/// One segment of a path of ours: letters, digits, `-`, `_` or `.`, and neither `.` nor `..`.
pub(crate) fn is_path_segment(text: &str, max_bytes: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=max_bytes).contains(&text.len())
        && text.bytes().all(allowed)
        && !matches!(text, "." | "..")
}

/// What `serde(try_from = "String", into = "String")` asks for, of a type that is read and shown as text.
macro_rules! serde_as_text {
    ($name:ident, $error:ident) => {
        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}
pub(crate) use serde_as_text;

/// The same, and access to its text, of a `struct $name(String)`.
macro_rules! checked_text {
    ($name:ident, $error:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        crate::text::serde_as_text!($name, $error);
    };
}
pub(crate) use checked_text;
