//! Says whose fault a registry's error is and whether it may pass, in the registry's own words.

use bismuth_base::chain;
use oci_client::errors::{DigestError, OciDistributionError, OciEnvelope, OciError, OciErrorCode};

use super::super::error::ImageError;
use super::Remote;

/// The longest error text of a registry that a message repeats.
const ERROR_TEXT_MAX_CHARS: usize = 500;

impl Remote {
    pub fn refused(&self, act: &str, message: String) -> ImageError {
        ImageError::Refused {
            act: act.to_owned(),
            reference: self.wanted.clone(),
            registry: self.name.clone(),
            message,
        }
    }

    pub fn unreachable(&self, act: &str, message: String) -> ImageError {
        ImageError::Unreachable {
            act: act.to_owned(),
            reference: self.wanted.clone(),
            registry: self.name.clone(),
            message,
        }
    }

    pub fn incomplete_body(&self, act: &str, message: String) -> ImageError {
        ImageError::IncompleteBody {
            act: act.to_owned(),
            reference: self.wanted.clone(),
            registry: self.name.clone(),
            message,
        }
    }

    fn unauthorized(&self, message: String) -> ImageError {
        ImageError::Unauthorized {
            reference: self.wanted.clone(),
            registry: self.name.clone(),
            message,
        }
    }

    pub(super) fn image_error(&self, act: &str, error: OciDistributionError) -> ImageError {
        match error {
            OciDistributionError::RegistryError { envelope, .. } => {
                let message = envelope_text(&envelope);
                match envelope.errors.first().map(|error| &error.code) {
                    Some(
                        OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound,
                    ) => self.unknown(message),
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => {
                        self.unauthorized(message)
                    }
                    Some(OciErrorCode::Toomanyrequests) => self.unreachable(act, message),
                    _ => self.refused(act, message),
                }
            }
            OciDistributionError::ServerError { code, message, .. } => {
                let message = format!("HTTP {code}: {}", error_text(message.as_bytes()));
                match code {
                    404 => self.unknown(message),
                    401 | 403 => self.unauthorized(message),
                    408 | 425 | 429 | 500..=599 => self.unreachable(act, message),
                    _ => self.refused(act, message),
                }
            }
            OciDistributionError::UnauthorizedError { .. } => self
                .unauthorized("authentication required (the image may also not exist)".to_owned()),
            OciDistributionError::AuthenticationFailure(message) => {
                self.unauthorized(error_text(message.as_bytes()))
            }
            OciDistributionError::DigestError(DigestError::VerificationError {
                expected,
                actual,
            }) => ImageError::DigestMismatch {
                object: act.to_owned(),
                origin: self.name.clone(),
                expected,
                actual,
            },
            OciDistributionError::RequestError(error) if is_about_tls(&error) => {
                self.refused(act, chain(&error))
            }
            OciDistributionError::RequestError(error) if error.is_body() || error.is_decode() => {
                self.incomplete_body(act, chain(&error))
            }
            OciDistributionError::RequestError(error)
                if !error.is_builder() && !error.is_redirect() =>
            {
                self.unreachable(act, chain(&error))
            }
            OciDistributionError::IoError(error) => self.unreachable(act, chain(&error)),
            other => self.refused(act, chain(&other)),
        }
    }

    fn unknown(&self, message: String) -> ImageError {
        ImageError::UnknownImage {
            reference: self.wanted.clone(),
            registry: self.name.clone(),
            message,
        }
    }
}

/// Whether a request failed because certificates or protocol versions do not fit: trying again does not mend that.
fn is_about_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    // An `io::Error` does not count what it wraps among its sources.
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    wrapped.is_some_and(|inner| is_about_tls(inner)) || error.source().is_some_and(is_about_tls)
}

fn envelope_text(envelope: &OciEnvelope) -> String {
    let errors: Vec<_> = envelope.errors.iter().map(format_oci_error).collect();
    errors.join("; ")
}

/// `MANIFEST_UNKNOWN: manifest unknown ({"Tag":"x"})`
fn format_oci_error(error: &OciError) -> String {
    let code = serde_json::to_value(&error.code).ok();
    let code = code
        .as_ref()
        .and_then(|code| code.as_str())
        .unwrap_or("UNKNOWN");
    let detail = match &error.detail {
        serde_json::Value::Null => String::new(),
        detail => format!(" ({})", error_text(detail.to_string().as_bytes())),
    };
    format!("{code}: {}{detail}", error.message)
}

/// An error body as text: the messages of an OCI envelope if it is one, else its first characters on one line.
pub(super) fn error_text(body: &[u8]) -> String {
    if let Ok(envelope) = serde_json::from_slice(body) {
        return envelope_text(&envelope);
    }
    let text = String::from_utf8_lossy(body);
    let mut message = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = message.char_indices().nth(ERROR_TEXT_MAX_CHARS) {
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_error_message_keeps_its_code_and_detail() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"nope"}}]}"#;
        assert_eq!(
            error_text(body),
            r#"MANIFEST_UNKNOWN: manifest unknown ({"Tag":"nope"})"#
        );
    }

    #[test]
    fn other_bodies_become_one_bounded_line() {
        assert_eq!(
            error_text(b"<html>\n  Bad   Gateway\n"),
            "<html> Bad Gateway"
        );
        assert!(error_text(&[b'x'; 10_000]).chars().count() <= ERROR_TEXT_MAX_CHARS + 1);
    }
}
