//! `Range` and `If-Range`: RFC 9110 section 14. Pure.

use std::ops::Range;

use bismuth_store::records::Revision;
use http::HeaderMap;
use http::header::{IF_RANGE, RANGE};

use super::condition::strong_tag;
use super::problems::{Refusal, bad_range};

/// What a request wants of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RangeHeader {
    /// All of it.
    Whole,
    /// From here on.
    From(u64),
    /// From here to there, the last included.
    Between(u64, u64),
    /// So many at the end.
    Last(u64),
}

/// What of a blob is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SelectedRange {
    /// All of it: 200.
    Whole,
    /// This: 206.
    Part(Range<u64>),
    /// There is no such part: 416.
    Nothing,
}

impl RangeHeader {
    /// Reads the field. Several ranges and other units are not served in parts, which any server may choose.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut fields = headers.get_all(RANGE).iter();
        let field = match (fields.next(), fields.next()) {
            (None, _) => return Ok(Self::Whole),
            (Some(field), None) => field.to_str().map_err(|_| bad_range())?,
            (Some(_), Some(_)) => return Err(bad_range()),
        };
        let Some((unit, set)) = field.split_once('=') else {
            return Err(bad_range());
        };
        if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
            return Ok(Self::Whole);
        }
        Self::parse(set.trim()).ok_or_else(bad_range)
    }

    fn parse(range: &str) -> Option<Self> {
        let (first, last) = range.split_once('-')?;
        // u64's own parser takes a plus sign, and no number that is beyond any blob.
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().unwrap_or(u64::MAX))
        };
        match (first, last) {
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From(number(first)?)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::Between(first, last))
            }
        }
    }

    /// What this is of a blob of so many bytes.
    pub(super) fn select(self, size: u64) -> SelectedRange {
        let range = match self {
            Self::Whole => return SelectedRange::Whole,
            Self::From(first) => first..size,
            Self::Between(first, last) => first..size.min(last.saturating_add(1)),
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        if range.is_empty() {
            SelectedRange::Nothing
        } else {
            SelectedRange::Part(range)
        }
    }
}

/// Whether the client's part is of this state, so that another part is of use to it. A date never says so: a blob may be written twice in
/// one of its seconds, so that it is no strong validator (RFC 9110 sections 8.8.2.2 and 13.1.5), and the parts of two blobs would be
/// put together.
pub(super) fn if_range_holds(headers: &HeaderMap, revision: Revision) -> bool {
    let field = headers.get(IF_RANGE);
    field.is_none_or(|value| strong_tag(value.as_bytes()) == Some(revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(field: &str, size: u64) -> Option<SelectedRange> {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, field.parse().unwrap());
        Some(RangeHeader::of(&headers).ok()?.select(size))
    }

    #[test]
    fn only_a_strong_tag_says_that_a_part_is_of_this_state() {
        let holds = |field: &str| {
            let headers = [(IF_RANGE, field.parse().unwrap())];
            if_range_holds(&headers.into_iter().collect(), Revision(1))
        };
        assert!(if_range_holds(&HeaderMap::new(), Revision(1)));
        assert!(holds("\"1\""));
        for other in [
            "\"2\"",
            "W/\"1\"",
            "*",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Fri, 31 Dec 9999 23:59:59 GMT",
        ] {
            assert!(!holds(other), "{other}");
        }
    }

    #[test]
    fn ranges_select_what_rfc_9110_says() {
        let part = |range| Some(SelectedRange::Part(range));
        assert_eq!(selected("bytes=0-0", 10), part(0..1));
        assert_eq!(selected("bytes=2-5", 10), part(2..6));
        assert_eq!(selected("bytes=2-99", 10), part(2..10));
        assert_eq!(selected("Bytes= 9-", 10), part(9..10));
        assert_eq!(selected("bytes=-3", 10), part(7..10));
        assert_eq!(selected("bytes=-30", 10), part(0..10));
        for none in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(selected(none, 10), Some(SelectedRange::Nothing), "{none}");
        }
        assert_eq!(selected("bytes=0-", 0), Some(SelectedRange::Nothing));
        for whole in ["bytes=0-1,3-4", "lines=1-2"] {
            assert_eq!(selected(whole, 10), Some(SelectedRange::Whole), "{whole}");
        }
        for bad in [
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-",
            "bytes=+1-2",
            "bytes=1",
        ] {
            assert_eq!(selected(bad, 10), None, "{bad}");
        }
        assert_eq!(selected("bytes=0-18446744073709551615", 10), part(0..10));
        // Beyond any number that we have.
        let huge = "9".repeat(30);
        assert_eq!(selected(&format!("bytes=2-{huge}"), 10), part(2..10));
        assert_eq!(selected(&format!("bytes=-{huge}"), 10), part(0..10));
        let beyond = selected(&format!("bytes={huge}-"), 10);
        assert_eq!(beyond, Some(SelectedRange::Nothing));
    }
}
