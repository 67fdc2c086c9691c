//! Where one request ends and the next begins: a second, stricter opinion beside hyper's.
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

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
        | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits {
        max_bytes: 256,
        max_fields: 8,
    };

    fn scan(bytes: &str) -> Scan {
        Framing::new(LIMITS).scan(bytes.as_bytes())
    }

    /// Feeds the bytes in pieces as the guard does; returns what passed and the last verdict.
    fn scan_in_pieces(bytes: &[u8], cuts: &[usize]) -> (usize, Scan, u64) {
        let mut framing = Framing::new(LIMITS);
        let (mut passed, mut held, mut seen) = (0, 0, 0);
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut last = Scan::All;
        for end in ends {
            if end == seen && end != bytes.len() {
                continue;
            }
            seen = end;
            last = framing.scan(&bytes[held..end]);
            match last {
                Scan::All => {
                    passed = end;
                    held = end;
                }
                Scan::PartialHead(at) => {
                    held += at;
                    passed = held;
                }
                Scan::Refused(at, _) => {
                    passed = held + at;
                    break;
                }
                Scan::Broken(_) => break,
            }
        }
        let verdict = match last {
            Scan::Refused(_, refusal) => Scan::Refused(0, refusal),
            Scan::PartialHead(_) => Scan::PartialHead(0),
            Scan::Broken(_) => Scan::Broken(0),
            Scan::All => Scan::All,
        };
        (passed, verdict, framing.heads())
    }

    #[test]
    fn requests_are_told_apart_over_keep_alive_and_pipelining() {
        let stream = concat!(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
            "\r\nGET /last HTTP/1.0\r\n\r\n",
        );
        let mut framing = Framing::new(LIMITS);
        assert_eq!(framing.scan(stream.as_bytes()), Scan::All);
        assert_eq!(framing.heads(), 4);
        assert!(framing.is_between_requests());
    }

    #[test]
    fn every_head_that_can_be_read_in_two_ways_is_refused() {
        let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let cases = [
            (
                post("Content-Length: 5\r\nTransfer-Encoding: chunked"),
                Refusal::LengthAndEncoding,
            ),
            (
                post("transfer-encoding: chunked\r\ncontent-length: 5"),
                Refusal::LengthAndEncoding,
            ),
            (
                post("Content-Length: 5\r\nContent-Length: 5"),
                Refusal::ContentLength,
            ),
            (
                post("Content-Length: 5\r\nContent-Length: 6"),
                Refusal::ContentLength,
            ),
            (post("Content-Length: 5, 5"), Refusal::ContentLength),
            (post("Content-Length: +5"), Refusal::ContentLength),
            (post("Content-Length: 0x5"), Refusal::ContentLength),
            (post("Content-Length:"), Refusal::ContentLength),
            (
                post("Content-Length: 18446744073709551616"),
                Refusal::ContentLength,
            ),
            (
                post("Transfer-Encoding: gzip, chunked"),
                Refusal::TransferEncoding,
            ),
            (
                post("Transfer-Encoding: chunked, identity"),
                Refusal::TransferEncoding,
            ),
            (
                post("Transfer-Encoding: xchunked"),
                Refusal::TransferEncoding,
            ),
            (
                post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
                Refusal::TransferEncoding,
            ),
            (
                post("Transfer-Encoding : chunked"),
                Refusal::SpaceBeforeColon,
            ),
            (post("X: 1\r\n folded"), Refusal::FoldedField),
            (post("X: 1\n Y: 2"), Refusal::BareLineFeed),
            (post("X: a\rb"), Refusal::BareCarriageReturn),
            (post("no colon"), Refusal::Field),
            (post(": empty name"), Refusal::Field),
            (post("Transfer\0-Encoding: chunked"), Refusal::Field),
            ("GET / HTTP/1.1\nHost: a\n\n".into(), Refusal::BareLineFeed),
            ("GET  / HTTP/1.1\r\n".into(), Refusal::RequestLine),
            ("GET /a b HTTP/1.1\r\n".into(), Refusal::RequestLine),
            ("GET /\r\n".into(), Refusal::RequestLine),
            ("GET / HTTP/2.0\r\n".into(), Refusal::Version),
            ("G(T / HTTP/1.1\r\n".into(), Refusal::RequestLine),
            (
                "\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n".into(),
                Refusal::RequestLine,
            ),
            (
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
                Refusal::TransferEncoding,
            ),
        ];
        for (head, refusal) in cases {
            assert_eq!(scan(&head), Scan::Refused(0, refusal), "{head:?}");
        }
    }

    #[test]
    fn a_refusal_says_where_the_good_requests_end() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let stream = format!("{good}GET / HTTP/1.1\n");
        assert_eq!(
            scan(&stream),
            Scan::Refused(good.len(), Refusal::BareLineFeed)
        );
    }

    #[test]
    fn limits_count_bytes_and_fields() {
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(256));
        assert_eq!(scan(&long), Scan::Refused(0, Refusal::HeadTooLarge));
        assert_eq!(scan(&long[..256]), Scan::Refused(0, Refusal::HeadTooLarge));
        assert_eq!(scan(&long[..255]), Scan::PartialHead(0));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(9));
        assert_eq!(scan(&many), Scan::Refused(0, Refusal::TooManyFields));
    }

    #[test]
    fn broken_chunks_are_noticed() {
        for body in [
            "\r\n",
            "g\r\n",
            "5\nhello",
            "5\r\nhello!\r\n",
            "11111111111111111\r\n",
            "0\r\nA: b\n\r\n",
        ] {
            let stream = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert!(matches!(scan(&stream), Scan::Broken(_)), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn the_verdict_does_not_depend_on_how_the_bytes_arrive(
            requests in prop::collection::vec(prop::sample::select(vec![
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                "POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\n\r\n\r\nabc",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\r\n\r\r\n0\r\nT: v\r\n\r\n",
                "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                "GET / HTTP/1.1\r\nHo",
            ]), 1..6),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let stream = requests.concat();
            let whole = scan_in_pieces(stream.as_bytes(), &[]);
            let pieces = scan_in_pieces(stream.as_bytes(), &cuts);
            prop_assert_eq!(whole.1, pieces.1);
            prop_assert_eq!(whole.2, pieces.2);
            if !matches!(whole.1, Scan::Broken(_)) {
                prop_assert_eq!(whole.0, pieces.0);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), cuts in prop::collection::vec(any::<usize>(), 0..8)) {
            scan_in_pieces(&bytes, &cuts);
        }
    }
}
