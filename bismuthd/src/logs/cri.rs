//! Encodes and decodes the records of CRI log files, one per line.
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F a whole line
//! 2026-01-02T03:04:05.678901234Z stderr P the first part of a long line, the rest follows
//! ```
//!
//! Format: Kubernetes `pkg/kubelet/kuberuntime/logs` and the design note "CRI container logging".
//! Times are UTC with nine digits of nanoseconds. What a program prints is arbitrary bytes and is
//! kept as it is, except that a record ends at a line feed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest content of one record. A longer line becomes several records marked `P`, the last `F`;
/// kubelet and containerd use the same 16 KiB, so readers expect it.
pub const MAX_CONTENT: usize = 16 * 1024;

/// Which of its two outputs a program used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// The word in the record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One record, borrowed from the line it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was read from the program.
    pub time: SystemTime,
    /// Where it was printed.
    pub stream: Stream,
    /// Whether it ends a line (`F`), or the line goes on in the next record (`P`).
    pub full: bool,
    /// What was printed, without the line feed.
    pub content: &'a [u8],
}

/// Appends a record and its line feed.
pub fn encode(out: &mut Vec<u8>, time: SystemTime, stream: Stream, full: bool, content: &[u8]) {
    let stamp = humantime::format_rfc3339_nanos(time);
    let tag = if full { 'F' } else { 'P' };
    out.reserve(content.len() + 48);
    // Writing to a Vec cannot fail.
    let _ = std::io::Write::write_fmt(out, format_args!("{stamp} {} {tag} ", stream.name()));
    out.extend_from_slice(content);
    out.push(b'\n');
}

/// Reads one line without its line feed; `None` if it is not a record.
pub fn decode(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let time = humantime::parse_rfc3339(time).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let full = match parts.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let content = parts.next()?;
    Some(Record {
        time,
        stream,
        full,
        content,
    })
}

/// Cuts a byte stream into records, keeping the unfinished end of the last line.
#[derive(Debug)]
pub struct RecordSplitter {
    stream: Stream,
    partial: Vec<u8>,
}

impl RecordSplitter {
    /// A splitter for one stream of one container.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            partial: Vec::new(),
        }
    }

    /// Takes what was printed at `time` and appends the finished records to `out`.
    /// Never holds more than [`MAX_CONTENT`] bytes back.
    pub fn push(&mut self, time: SystemTime, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = MAX_CONTENT - self.partial.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|b| *b == b'\n') {
                self.emit(time, &bytes[..end], true, out);
                bytes = &bytes[end + 1..];
            } else if window.len() == room {
                self.emit(time, window, false, out);
                bytes = &bytes[room..];
            } else {
                self.partial.extend_from_slice(window);
                return;
            }
        }
    }

    /// Appends what is left of an unfinished line: the program ended, or has been silent since.
    pub fn flush(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.emit(time, &[], false, out);
        }
    }

    /// Whether an unfinished line is held back.
    pub fn has_partial_line(&self) -> bool {
        !self.partial.is_empty()
    }

    fn emit(&mut self, time: SystemTime, tail: &[u8], full: bool, out: &mut Vec<u8>) {
        if self.partial.is_empty() {
            encode(out, time, self.stream, full, tail);
            return;
        }
        self.partial.extend_from_slice(tail);
        encode(out, time, self.stream, full, &self.partial);
        self.partial.clear();
    }
}

/// The point in time that a `since` parameter names: an RFC 3339 time, seconds since the Unix
/// epoch, or a duration back from `now` such as `10m`. `None` if it is none of these.
pub fn parse_since(text: &str, now: SystemTime) -> Option<SystemTime> {
    if let Ok(seconds) = text.parse::<u64>() {
        return UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    }
    if let Ok(time) = humantime::parse_rfc3339(text) {
        return Some(time);
    }
    let back = humantime::parse_duration(text).ok()?;
    now.checked_sub(back)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(ms)
    }

    /// Log shippers read these bytes.
    #[test]
    fn golden_record() {
        let mut out = Vec::new();
        let time = at(1_767_323_045_678);
        encode(&mut out, time, Stream::Stderr, true, b"hello \xff");
        assert_eq!(out, b"2026-01-02T03:04:05.678000000Z stderr F hello \xff\n");
    }

    #[test]
    fn a_long_line_becomes_parts_and_memory_stays_bounded() {
        let mut splitter = RecordSplitter::new(Stream::Stdout);
        let mut out = Vec::new();
        for _ in 0..10 {
            splitter.push(at(0), &[b'x'; 5000], &mut out);
            assert!(splitter.partial.len() < MAX_CONTENT);
        }
        splitter.push(at(0), b"end\n", &mut out);
        let records: Vec<_> = out.split(|b| *b == b'\n').filter_map(decode).collect();
        assert_eq!(records.len(), 4);
        let is_part = |r: &Record<'_>| !r.full && r.content.len() == MAX_CONTENT;
        assert!(records[..3].iter().all(is_part));
        assert!(records[3].full && records[3].content.ends_with(b"xend"));
    }

    #[test]
    fn since_is_a_time_or_a_duration() {
        let now = at(1_000_000_000);
        assert_eq!(parse_since("5", now), Some(at(5_000)));
        assert_eq!(parse_since("10m", now), Some(at(999_400_000)));
        assert_eq!(parse_since("1970-01-01T00:00:07Z", now), Some(at(7_000)));
        assert_eq!(parse_since("yesterday", now), None);
    }

    proptest! {
        #[test]
        fn output_can_be_restored_from_its_records(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..20),
        ) {
            let mut splitter = RecordSplitter::new(Stream::Stdout);
            let (mut out, mut printed) = (Vec::new(), Vec::new());
            for chunk in &chunks {
                splitter.push(at(1), chunk, &mut out);
                printed.extend_from_slice(chunk);
            }
            splitter.flush(at(1), &mut out);
            let mut read = Vec::new();
            for line in out.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let record = decode(line).expect("every line is a record");
                read.extend_from_slice(record.content);
                if record.full {
                    read.push(b'\n');
                }
            }
            prop_assert_eq!(read, printed);
        }

        #[test]
        fn arbitrary_lines_never_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&line);
        }
    }
}
