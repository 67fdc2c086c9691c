//! Request ids, trace context and timings: `X-Request-Id`, `traceparent` and `Server-Timing`.

use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// `X-Request-Id`: kept if the client sent a sane one, else made.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `traceparent` of W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate` of W3C Trace Context; meaningless without a valid `traceparent`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// `Server-Timing` of the W3C recommendation of that name.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Long enough for every id scheme in use, short enough to be logged and echoed without thought.
const REQUEST_ID_MAX: usize = 128;

/// Returns the id of the request whose headers these are, and writes it into them.
///
/// A client's id is kept if it is one value of 1 to 128 visible ASCII characters; otherwise a random
/// UUID takes its place.
pub fn request_id(headers: &mut HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(REQUEST_ID).iter();
    if let (Some(id), None) = (given.next(), given.next())
        && is_sane_id(id.as_bytes())
    {
        return id.clone();
    }
    let id = new_request_id();
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// A new request id: a random (version 4) UUID.
pub fn new_request_id() -> HeaderValue {
    // An id has to be distinct, not secret: a generator without system calls is enough.
    let uuid = uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid();
    let mut buffer = uuid::Uuid::encode_buffer();
    let text: &str = uuid.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

fn is_sane_id(id: &[u8]) -> bool {
    (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Continues the trace that the headers name, or starts one, and writes it into them.
///
/// The trace id and flags of a valid `traceparent` are kept and a new parent id is made, since this hop is a
/// span of its own. Without a valid one a new, unsampled trace begins and `tracestate` is dropped.
pub fn traceparent(headers: &mut HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let continued = match (given.next(), given.next()) {
        (Some(value), None) => parse_traceparent(value.as_bytes()),
        _ => None,
    };
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    match continued {
        Some((trace_id, flags)) => {
            text[3..35].copy_from_slice(trace_id);
            text[53..55].copy_from_slice(flags);
        }
        None => {
            headers.remove(TRACESTATE);
            // All zeroes is the one invalid id.
            write_hex(&fastrand::u128(1..).to_be_bytes(), &mut text[3..35]);
        }
    }
    write_hex(&fastrand::u64(1..).to_be_bytes(), &mut text[36..52]);
    let value =
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("00-0-0-00"));
    headers.insert(TRACEPARENT, value.clone());
    value
}

/// Trace id and flags of a valid `traceparent` (W3C Trace Context level 1, section 3.2).
fn parse_traceparent(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let (version, rest) = (value.get(..2)?, value.get(2..55)?);
    let shape = rest[0] == b'-' && rest[33] == b'-' && rest[50] == b'-';
    let (trace_id, parent_id, flags) = (&rest[1..33], &rest[34..50], &rest[51..53]);
    let length_fits = match version {
        b"ff" => false,
        b"00" => value.len() == 55,
        // A later version may append fields, after a dash.
        _ => value.get(55).is_none_or(|b| *b == b'-'),
    };
    let valid = shape
        && length_fits
        && [version, trace_id, parent_id, flags]
            .into_iter()
            .all(is_hex)
        && trace_id.iter().any(|b| *b != b'0')
        && parent_id.iter().any(|b| *b != b'0');
    valid.then_some((trace_id, flags))
}

fn write_hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Adds a `Server-Timing` field with these parts, beside whatever the function itself reported.
///
/// A part without a duration is a bare mark (`warm`). Durations are written in milliseconds.
pub fn server_timing(headers: &mut HeaderMap, parts: &[(&str, Option<Duration>)]) {
    let mut text = String::with_capacity(parts.len() * 16);
    for (name, took) in parts {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(name);
        if let Some(took) = took {
            // Writing into a String cannot fail.
            let _ = write!(text, ";dur={:.3}", took.as_secs_f64() * 1e3);
        }
    }
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.append(SERVER_TIMING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn a_sane_request_id_is_kept_and_anything_else_replaced() {
        let mut headers = with(REQUEST_ID, "order-42/x");
        assert_eq!(request_id(&mut headers), "order-42/x");
        for bad in ["", "two words", &"x".repeat(129)] {
            let mut headers = with(REQUEST_ID, bad);
            let made = request_id(&mut headers);
            assert_ne!(made, bad);
            assert_eq!(headers[REQUEST_ID], made);
            assert!(uuid::Uuid::parse_str(made.to_str().unwrap()).is_ok());
        }
    }

    #[test]
    fn a_valid_trace_is_continued_with_a_span_of_our_own() {
        let mut headers = with(TRACEPARENT, GIVEN);
        headers.insert(TRACESTATE, HeaderValue::from_static("v=1"));
        let value = traceparent(&mut headers);
        let value = value.to_str().unwrap();
        assert_eq!(value[..36], GIVEN[..36]);
        assert_ne!(value[36..52], GIVEN[36..52]);
        assert_eq!(&value[52..], "-01");
        assert!(headers.contains_key(TRACESTATE));
    }

    #[test]
    fn an_invalid_trace_is_replaced_and_its_state_dropped() {
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            let mut headers = with(TRACEPARENT, bad);
            headers.insert(TRACESTATE, HeaderValue::from_static("v=1"));
            let value = traceparent(&mut headers);
            assert!(parse_traceparent(value.as_bytes()).is_some(), "{bad}");
            assert_ne!(value, bad);
            assert!(!headers.contains_key(TRACESTATE));
        }
    }

    #[test]
    fn server_timing_lists_marks_and_milliseconds() {
        let mut headers = HeaderMap::new();
        server_timing(
            &mut headers,
            &[("queue", Some(Duration::from_micros(1500))), ("warm", None)],
        );
        assert_eq!(headers[SERVER_TIMING], "queue;dur=1.500, warm");
    }
}
