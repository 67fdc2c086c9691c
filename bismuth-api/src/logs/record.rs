//! Parses records of container logs in the CRI format.
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F a whole line
//! 2026-01-02T03:04:05.678901234Z stderr P the first part of a long line, the rest follows
//! ```
//!
//! The CRI format of Kubernetes ("CRI container logging"), in which bismuthd keeps logs. Its times are
//! UTC with nine digits, so that the order of their texts is the order of time.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use bismuth_model::ContainerId;
use bytes::{Bytes, BytesMut};
use serde::Serialize;

/// `2026-01-02T03:04:05.678901234Z`.
const TIME_BYTES: usize = 30;
/// bismuthd cuts records at 16 KiB; a line of four times that is not from bismuthd.
const LONGEST_LINE: usize = 64 * 1024;

/// Which container printed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(super) struct Instance {
    pub(super) ip: Ipv4Addr,
    pub(super) container_id: ContainerId,
}

/// What was printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) time: String,
    /// `stdout` or `stderr`.
    pub(super) stream: &'static str,
    /// Whether it ends a line, or the line goes on in the next record of this container and stream.
    pub(super) full: bool,
    /// Any bytes but a line feed.
    pub(super) content: Bytes,
}

impl Record {
    /// Reads a line without its line feed; `None` if it is not a record.
    pub(super) fn parse(line: Bytes) -> Option<Self> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?.to_owned();
        let stream = match parts.next()? {
            b"stdout" => "stdout",
            b"stderr" => "stderr",
            _ => return None,
        };
        let full = match parts.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        let content = line.slice_ref(parts.next()?);
        let is_time =
            time.len() == TIME_BYTES && time.ends_with('Z') && time.as_bytes()[10] == b'T';
        is_time.then_some(Self {
            time,
            stream,
            full,
            content,
        })
    }

    /// As a line of the merged log: the container after the time.
    pub(super) fn text(&self, instance: Instance) -> Bytes {
        let tag = if self.full { 'F' } else { 'P' };
        let head = format!(
            "{} {} {} {tag} ",
            self.time, instance.container_id, self.stream
        );
        let mut line = BytesMut::with_capacity(head.len() + self.content.len() + 1);
        line.extend_from_slice(head.as_bytes());
        line.extend_from_slice(&self.content);
        line.extend_from_slice(b"\n");
        line.freeze()
    }
}

/// The line is longer than any record.
#[derive(Debug, thiserror::Error)]
#[error("a line of more than {LONGEST_LINE} bytes, which no record has")]
pub(super) struct LineTooLong;

/// Cuts what arrives into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// Up to here there is no line feed.
    searched: usize,
}

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next line without its line feed, if it is there whole.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        match self.buffer[self.searched..]
            .iter()
            .position(|b| *b == b'\n')
        {
            Some(at) => {
                let mut line = self.buffer.split_to(self.searched + at + 1).freeze();
                line.truncate(line.len() - 1);
                self.searched = 0;
                Ok(Some(line))
            }
            None if self.buffer.len() > LONGEST_LINE => Err(LineTooLong),
            None => {
                self.searched = self.buffer.len();
                Ok(None)
            }
        }
    }
}

/// The point in time that `since` names: an RFC 3339 time, seconds since the Unix epoch, or a duration
/// back from `now` such as `10m`; in the form that records have. `None` if it is none of these.
pub(super) fn since(text: &str, now: SystemTime) -> Option<String> {
    let time = if let Ok(seconds) = text.parse::<u64>() {
        SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))?
    } else if let Ok(time) = humantime::parse_rfc3339(text) {
        time
    } else {
        now.checked_sub(humantime::parse_duration(text).ok()?)?
    };
    // What humantime cannot print: after the year 9999 or before 1970.
    let printable = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .is_ok_and(|since| since.as_secs() < 253_402_300_800);
    printable.then(|| humantime::format_rfc3339_nanos(time).to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.678901234Z";

    #[test]
    fn records_are_read_and_written_with_their_container() {
        let instance = Instance {
            ip: Ipv4Addr::LOCALHOST,
            container_id: ContainerId::from_bytes([7; 16]),
        };
        let record = Record::parse(Bytes::from(format!("{TIME} stderr P a  b "))).unwrap();
        assert_eq!(
            (record.stream, record.full, &record.content[..]),
            ("stderr", false, &b"a  b "[..])
        );
        let text = format!("{TIME} 07070707-0707-0707-0707-070707070707 stderr P a  b \n");
        assert_eq!(record.text(instance), text.as_bytes());
        let empty = Record::parse(Bytes::from(format!("{TIME} stdout F "))).unwrap();
        assert_eq!(empty.content.len(), 0);
    }

    #[test]
    fn what_is_not_a_record_is_none() {
        for line in [
            "",
            "x",
            "2026 stdout F x",
            &format!("{TIME} stdin F x"),
            &format!("{TIME} stdout X x"),
            &format!("{TIME} stdout"),
        ] {
            assert_eq!(
                Record::parse(Bytes::from(line.to_owned())),
                None,
                "{line:?}"
            );
        }
    }

    #[test]
    fn lines_are_cut_wherever_the_bytes_are() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for byte in b"one\n\nthree\nfou" {
            lines.push(&[*byte]);
            found.extend(lines.next().unwrap());
        }
        assert_eq!(found, ["one", "", "three"]);
        lines.push(&vec![b'x'; LONGEST_LINE]);
        assert!(lines.next().is_err());
    }

    #[test]
    fn since_is_a_time_or_a_duration() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let is = |text: &str| since(text, now);
        assert_eq!(is("10m").as_deref(), Some("1970-01-01T00:06:40.000000000Z"));
        assert_eq!(is("60").as_deref(), Some("1970-01-01T00:01:00.000000000Z"));
        assert_eq!(
            is("2026-01-02T03:04:05Z").as_deref(),
            Some("2026-01-02T03:04:05.000000000Z")
        );
        for nonsense in [
            "",
            "yesterday",
            "-5",
            "99999999999999999999",
            "18446744073709551615",
            "1h too long",
        ] {
            assert_eq!(is(nonsense), None, "{nonsense:?}");
        }
    }
}
