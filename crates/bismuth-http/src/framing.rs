//! Strict HTTP/1.1 message framing, against request smuggling: where one request ends and the next begins.
//!
//! ```text
//!   ┌──────────────────────────────────────────────┐
//!   ▼                                              │
//! Head ──no body──────────────────────────────────►┤
//!   ├──content-length: n──► Length(n) ────────────►┤
//!   ├──chunked──► Chunked(size ⇄ data, trailers) ─►┘
//!   └──two readings possible──► Refused
//! ```
//!
//! Pure: bytes in, verdict out. It exists because hyper accepts `Content-Length` together with
//! `Transfer-Encoding` and drops the former before a service could see it, collapses repeated
//! `Content-Length`s, and takes bare LF for a line end. Each is how requests are smuggled (RFC 9112 section 11.2).

use crate::guard::Refusal;

/// Bounds on a head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes of request line and fields, with their line ends.
    pub max_bytes: usize,
    /// How many fields.
    pub max_fields: usize,
}

/// Empty lines tolerated before a request line; RFC 9112 section 2.2 asks for at least one.
const MAX_LEADING_BLANKS: u8 = 2;
/// Bytes of one chunk-size line with its extensions, or of all trailers; hyper's own bound on both.
const MAX_CHUNK_OVERHEAD: usize = 16 * 1024;
/// Eight exbibytes: no body is longer, and hyper keeps the last numbers of 64 bits for itself.
const MAX_LENGTH: u64 = i64::MAX as u64;
/// Sixteen hex digits fill 64 bits.
const MAX_CHUNK_DIGITS: u8 = 16;

/// What one call of [`Framing::scan`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    /// Everything belongs to complete heads and to bodies.
    All,
    /// Bytes from here on are a head that is not complete yet.
    PartialHead(usize),
    /// Bytes before this offset are good; the head that begins there is refused.
    Refused(usize, Refusal),
    /// The framing of a body is broken at or before this offset; nothing after it can be understood.
    Broken(usize),
}

/// Follows one connection's bytes. See the module.
#[derive(Debug)]
pub(crate) struct Framing {
    limits: HeadLimits,
    state: State,
    /// Complete heads seen.
    heads: u64,
    /// Whether a byte of the last head's body was seen.
    body_begun: bool,
}

#[derive(Debug)]
enum State {
    Head(Head),
    Length(u64),
    Chunked(Chunk),
}

/// A head as far as it was read. Offsets count from its first byte.
#[derive(Debug, Default)]
struct Head {
    /// Where the line being read begins; everything before it was judged.
    line_start: usize,
    leading_blanks: u8,
    has_request_line: bool,
    is_http_10: bool,
    fields: usize,
    content_length: Option<u64>,
    chunked: bool,
}

#[derive(Debug)]
enum Chunk {
    Size { value: u64, digits: u8 },
    Extension { value: u64, length: usize },
    SizeEnd { value: u64 },
    Data(u64),
    DataCr,
    DataLf,
    Trailer { line: usize, total: usize },
    TrailerLf { line: usize, total: usize },
}

impl Framing {
    pub(crate) fn new(limits: HeadLimits) -> Self {
        Framing {
            limits,
            state: State::Head(Head::default()),
            heads: 0,
            body_begun: false,
        }
    }

    /// How many complete heads have passed.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a byte of the last request's body has passed.
    pub(crate) fn body_begun(&self) -> bool {
        self.body_begun
    }

    /// Whether the last request's body is complete.
    pub(crate) fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Judges `bytes`. After [`Scan::PartialHead`] the next call must begin with the same partial head,
    /// grown; lines already judged are not looked at again.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                State::Head(head) => match head.scan(&bytes[at..], &self.limits) {
                    Ok(Some(length)) => {
                        self.state = head.body();
                        self.heads += 1;
                        self.body_begun = false;
                        at += length;
                    }
                    Ok(None) => return Scan::PartialHead(at),
                    Err(refusal) => return Scan::Refused(at, refusal),
                },
                State::Length(left) => {
                    self.body_begun = true;
                    let taken = (*left).min((bytes.len() - at) as u64);
                    *left -= taken;
                    // No more than bytes.len().
                    at += taken as usize;
                    if *left == 0 {
                        self.state = State::Head(Head::default());
                    }
                }
                State::Chunked(chunk) => match chunk.scan(&bytes[at..]) {
                    Some((length, is_over)) => {
                        self.body_begun = true;
                        at += length;
                        if is_over {
                            self.state = State::Head(Head::default());
                        }
                    }
                    None => return Scan::Broken(at),
                },
            }
        }
        Scan::All
    }
}

impl Head {
    /// The head's length if it is complete, `None` if more bytes are needed.
    fn scan(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Refusal> {
        loop {
            let rest = &bytes[self.line_start..];
            let Some(end) = memchr::memchr2(b'\r', b'\n', rest) else {
                return self.needs_more(bytes, limits);
            };
            if rest[end] == b'\n' {
                return Err(Refusal::BareLineFeed);
            }
            match rest.get(end + 1) {
                None => return self.needs_more(bytes, limits),
                Some(b'\n') => {}
                Some(_) => return Err(Refusal::BareCarriageReturn),
            }
            let line = &rest[..end];
            self.line_start += end + 2;
            if self.line_start > limits.max_bytes {
                return Err(Refusal::HeadTooLarge);
            }
            if self.line(line, limits)? {
                return Ok(Some(self.line_start));
            }
        }
    }

    fn needs_more(&self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Refusal> {
        match bytes.len() >= limits.max_bytes {
            true => Err(Refusal::HeadTooLarge),
            false => Ok(None),
        }
    }

    /// Judges one line; true if it was the empty one that ends the head.
    fn line(&mut self, line: &[u8], limits: &HeadLimits) -> Result<bool, Refusal> {
        match (line.first(), self.has_request_line) {
            (None, true) => self.finish().map(|()| true),
            (None, false) => {
                self.leading_blanks += 1;
                match self.leading_blanks > MAX_LEADING_BLANKS {
                    true => Err(Refusal::RequestLine),
                    false => Ok(false),
                }
            }
            (Some(_), false) => self.request_line(line).map(|()| false),
            (Some(_), true) => {
                self.fields += 1;
                if self.fields > limits.max_fields {
                    return Err(Refusal::TooManyFields);
                }
                self.field(line).map(|()| false)
            }
        }
    }

    /// `method SP target SP HTTP/1.x`, with exactly these two spaces.
    fn request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let mut spaces = memchr::memchr_iter(b' ', line);
        let (Some(first), Some(second), None) = (spaces.next(), spaces.next(), spaces.next())
        else {
            return Err(Refusal::RequestLine);
        };
        let (method, target) = (&line[..first], &line[first + 1..second]);
        if method.is_empty() || !method.iter().all(|b| is_token(*b)) || target.is_empty() {
            return Err(Refusal::RequestLine);
        }
        if !target.iter().all(|b| may_stand_in_a_target(*b)) || std::str::from_utf8(target).is_err()
        {
            return Err(Refusal::Target);
        }
        self.is_http_10 = match &line[second + 1..] {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            version if version.starts_with(b"HTTP/") => return Err(Refusal::Version),
            _ => return Err(Refusal::RequestLine),
        };
        self.has_request_line = true;
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Refusal> {
        if matches!(line[0], b' ' | b'\t') {
            return Err(Refusal::FoldedField);
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return Err(Refusal::Field);
        };
        let name = &line[..colon];
        match name.last() {
            None => return Err(Refusal::Field),
            Some(b' ' | b'\t') => return Err(Refusal::SpaceBeforeColon),
            Some(_) => {}
        }
        if !name.iter().all(|b| is_token(*b)) {
            return Err(Refusal::Field);
        }
        let value = line[colon + 1..].trim_ascii();
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            _ => Ok(()),
        }
    }

    /// Digits only, once: repeating it is refused even with the same value, since RFC 9112 section 6.3 lets
    /// the next hop read it either way.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.content_length.is_some() || value.is_empty() {
            return Err(Refusal::ContentLength);
        }
        let mut length: u64 = 0;
        for byte in value {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return Err(Refusal::ContentLength);
            }
            length = length
                .checked_mul(10)
                .and_then(|length| length.checked_add(u64::from(digit)))
                .ok_or(Refusal::ContentLength)?;
        }
        if length > MAX_LENGTH {
            return Err(Refusal::ContentLength);
        }
        self.content_length = Some(length);
        Ok(())
    }

    /// `chunked` and nothing else: another coding would reach the function without its name.
    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.chunked || self.is_http_10 || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::TransferEncoding);
        }
        self.chunked = true;
        Ok(())
    }

    fn finish(&self) -> Result<(), Refusal> {
        match self.chunked && self.content_length.is_some() {
            true => Err(Refusal::LengthAndEncoding),
            false => Ok(()),
        }
    }

    fn body(&self) -> State {
        match (self.chunked, self.content_length) {
            (true, _) => State::Chunked(Chunk::Size {
                value: 0,
                digits: 0,
            }),
            (false, Some(length)) if length > 0 => State::Length(length),
            _ => State::Head(Head::default()),
        }
    }
}

impl Chunk {
    /// Bytes consumed (at least one) and whether the body is over; `None` if the framing is broken.
    fn scan(&mut self, bytes: &[u8]) -> Option<(usize, bool)> {
        if let Chunk::Data(left) = self {
            let taken = (*left).min(bytes.len() as u64);
            *left -= taken;
            if *left == 0 {
                *self = Chunk::DataCr;
            }
            // No more than bytes.len().
            return Some((taken as usize, false));
        }
        let byte = bytes[0];
        let is_over = self.step(byte)?;
        Some((1, is_over))
    }

    /// Takes one byte of overhead; true if it ended the body.
    fn step(&mut self, byte: u8) -> Option<bool> {
        *self = match (&*self, byte) {
            (Chunk::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                if *digits == MAX_CHUNK_DIGITS {
                    return None;
                }
                // The line before bounds it to sixteen digits, so nothing is shifted out.
                let digit = char::from(byte).to_digit(16)?;
                Chunk::Size {
                    value: value << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (Chunk::Size { digits: 0, .. }, _) => return None,
            (Chunk::Size { value, .. }, b'\r') => Chunk::SizeEnd { value: *value },
            (Chunk::Size { value, .. }, b';' | b' ' | b'\t') => Chunk::Extension {
                value: *value,
                length: 1,
            },
            (Chunk::Extension { value, .. }, b'\r') => Chunk::SizeEnd { value: *value },
            (Chunk::Extension { value, length }, b)
                if b != b'\n' && *length < MAX_CHUNK_OVERHEAD =>
            {
                Chunk::Extension {
                    value: *value,
                    length: length + 1,
                }
            }
            (Chunk::SizeEnd { value: 0 }, b'\n') => Chunk::Trailer { line: 0, total: 0 },
            (Chunk::SizeEnd { value }, b'\n') => Chunk::Data(*value),
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size {
                value: 0,
                digits: 0,
            },
            (Chunk::Trailer { line, total }, b'\r') => Chunk::TrailerLf {
                line: *line,
                total: *total,
            },
            (Chunk::Trailer { line: 0, .. }, b' ' | b'\t') => return None,
            (Chunk::Trailer { line, total }, b) if b != b'\n' && *total < MAX_CHUNK_OVERHEAD => {
                Chunk::Trailer {
                    line: line + 1,
                    total: total + 1,
                }
            }
            (Chunk::TrailerLf { line: 0, .. }, b'\n') => return Some(true),
            (Chunk::TrailerLf { total, .. }, b'\n') => Chunk::Trailer {
                line: 0,
                total: *total,
            },
            _ => return None,
        };
        Some(false)
    }
}

/// What RFC 9112 section 3.2 allows, and what clients send all the same, such as UTF-8 that is not encoded. Not a fragment: it
/// would be cut off, and the request be for something else.
fn may_stand_in_a_target(byte: u8) -> bool {
    !byte.is_ascii() || byte.is_ascii_graphic() && !matches!(byte, b'#' | b'<' | b'>' | b'`')
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
        | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests;
