//! Conditions of requests: RFC 9110 section 13. Pure.
//!
//! ```text
//!   If-Match, or without it If-Unmodified-Since ─► 412
//!   If-None-Match ─► 304 to a read, 412 to a write; without it, to a read, If-Modified-Since ─► 304
//! ```
//!
//! A date is ignored where it is none, stands in several fields, or there is nothing that has one: secrets, and what is absent.

use bismuth_store::records::decide::check;
use bismuth_store::records::{Condition, Refused, Revision};
use http::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, StatusCode};

use super::problems::{Refusal, bad_condition};

/// What a request asks to hold.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    matches: Option<Tags>,
    matches_none: Option<Tags>,
    unmodified_since: Option<Date>,
    modified_since: Option<Date>,
}

/// A date of HTTP, seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Date(u64);

impl Date {
    /// The one that stands in a field.
    fn of(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut fields = headers.get_all(name).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else {
            return None;
        };
        let time = httpdate::parse_http_date(field.to_str().ok()?).ok()?;
        let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Self(since.as_secs()))
    }

    /// The one that is told of a state.
    fn of_state(modified_ms: u64) -> Self {
        Self(modified_ms / 1000)
    }

    /// What a write must find that was to find nothing newer than this: the state that is there, if it is none. Nobody comes between that
    /// and the write then.
    ///
    /// # Errors
    /// When it is newer, or `condition` does not hold.
    pub(super) fn pin(
        self,
        condition: &Condition,
        current: Option<(Revision, u64)>,
    ) -> Result<Condition, Refused> {
        let revision = current.map(|(revision, _)| revision);
        if current.is_some_and(|(_, modified_ms)| Self::of_state(modified_ms) > self) {
            return Err(Refused::Condition { current: revision });
        }
        check(condition, revision)?;
        Ok(revision.map_or(Condition::Absent, |it| Condition::OneOf(vec![it])))
    }
}

/// The value of one of the fields.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    Any,
    /// Those that could be ours, and whether each was strong; another's tag is no state that ever was.
    List(Vec<(Revision, bool)>),
}

impl Conditions {
    /// Reads the fields.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        Ok(Self {
            matches: field(headers, &IF_MATCH)?,
            matches_none: field(headers, &IF_NONE_MATCH)?,
            unmodified_since: Date::of(headers, &IF_UNMODIFIED_SINCE),
            modified_since: Date::of(headers, &IF_MODIFIED_SINCE),
        })
    }

    /// Reads the values of the fields with tags, as they stand in a batch.
    pub(super) fn new(matches: Option<&str>, matches_none: Option<&str>) -> Result<Self, Refusal> {
        let read = |value: Option<&str>, name: &HeaderName| {
            let tags = value.map(|value| tags(value.as_bytes()));
            tags.map(|tags| tags.ok_or_else(|| bad_condition(name.as_str())))
                .transpose()
        };
        Ok(Self {
            matches: read(matches, &IF_MATCH)?,
            matches_none: read(matches_none, &IF_NONE_MATCH)?,
            unmodified_since: None,
            modified_since: None,
        })
    }

    /// After which date what a write finds must not have been written.
    pub(super) fn unmodified_since(&self) -> Option<Date> {
        self.unmodified_since.filter(|_| self.matches.is_none())
    }

    /// What a write must find, by its tags; `None` if nothing was said.
    pub(super) fn of_write(self) -> Result<Option<Condition>, Refusal> {
        let condition = match (self.matches, self.matches_none) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err(bad_condition("if-match with if-none-match")),
            (Some(Tags::Any), None) => Condition::Present,
            (None, Some(Tags::Any)) => Condition::Absent,
            (Some(Tags::List(tags)), None) => Condition::OneOf(strong(&tags)),
            (None, Some(Tags::List(tags))) => {
                Condition::NoneOf(tags.into_iter().map(|(revision, _)| revision).collect())
            }
        };
        Ok(Some(condition))
    }

    /// What a read that finds this state is answered instead of it: 412 or 304.
    pub(super) fn of_read(
        &self,
        current: Revision,
        modified_ms: Option<u64>,
    ) -> Option<StatusCode> {
        let modified = modified_ms.map(Date::of_state);
        let is_since = |date: Option<Date>| Some(modified? > date?);
        let holds = match &self.matches {
            None => is_since(self.unmodified_since) != Some(true),
            Some(Tags::Any) => true,
            Some(Tags::List(tags)) => strong(tags).contains(&current),
        };
        if !holds {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
        let same = match &self.matches_none {
            None => is_since(self.modified_since) == Some(false),
            Some(Tags::Any) => true,
            Some(Tags::List(tags)) => tags.iter().any(|(revision, _)| *revision == current),
        };
        same.then_some(StatusCode::NOT_MODIFIED)
    }

    /// Whether a read that finds nothing was to find something.
    pub(super) fn needs_a_state(&self) -> bool {
        self.matches.is_some()
    }
}

/// `If-Match` compares strongly: a weak tag never matches.
fn strong(tags: &[(Revision, bool)]) -> Vec<Revision> {
    let strong = tags.iter().filter(|(_, strong)| *strong);
    strong.map(|(revision, _)| *revision).collect()
}

fn field(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Refusal> {
    let mut all: Option<Tags> = None;
    for value in headers.get_all(name) {
        let tags = tags(value.as_bytes()).ok_or_else(|| bad_condition(name.as_str()))?;
        all = match (all, tags) {
            (None, tags) => Some(tags),
            (Some(Tags::List(mut list)), Tags::List(more)) => {
                list.extend(more);
                Some(Tags::List(list))
            }
            // `*` stands alone.
            _ => return Err(bad_condition(name.as_str())),
        };
    }
    Ok(all)
}

/// `*`, or entity tags separated by commas; `None` if it is neither.
fn tags(value: &[u8]) -> Option<Tags> {
    let mut rest = value.trim_ascii();
    if rest == b"*" {
        return Some(Tags::Any);
    }
    let (mut list, mut any) = (Vec::new(), false);
    loop {
        // Elements may be empty (RFC 9110 section 5.6.1.2), but not all of them.
        while let Some(after) = rest.strip_prefix(b",") {
            rest = after.trim_ascii_start();
        }
        if rest.is_empty() {
            return any.then_some(Tags::List(list));
        }
        any = true;
        let (strong, quoted) = match rest.strip_prefix(b"W/") {
            Some(rest) => (false, rest),
            None => (true, rest),
        };
        let opaque = quoted.strip_prefix(b"\"")?;
        let end = opaque.iter().position(|b| *b == b'"')?;
        list.extend(revision(&opaque[..end]).map(|revision| (revision, strong)));
        rest = opaque[end + 1..].trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return None;
        }
    }
}

/// The state that an opaque tag names, in the one spelling that we give out.
fn revision(opaque: &[u8]) -> Option<Revision> {
    let text = std::str::from_utf8(opaque).ok()?;
    let revision = Revision(u64::from_str_radix(text, 16).ok()?);
    (format!("{:x}", revision.0) == text).then_some(revision)
}

/// The one state that a strong tag names, for `If-Range`.
pub(super) fn strong_tag(value: &[u8]) -> Option<Revision> {
    match tags(value)? {
        Tags::List(list) => match list[..] {
            [(revision, true)] => Some(revision),
            _ => None,
        },
        Tags::Any => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(matches: Option<&str>, none: Option<&str>) -> Option<Condition> {
        Conditions::new(matches, none).ok()?.of_write().ok()?
    }

    #[test]
    fn fields_become_conditions() {
        let one = Revision(0x1f);
        assert_eq!(write(Some("*"), None), Some(Condition::Present));
        assert_eq!(write(None, Some(" * ")), Some(Condition::Absent));
        let of = |tags: &[Revision]| Some(Condition::OneOf(tags.to_vec()));
        assert_eq!(write(Some("\"1f\""), None), of(&[one]));
        assert_eq!(write(Some("\"1f\" , \"2\""), None), of(&[one, Revision(2)]));
        // Weak, another's, and in another spelling: none of them is a state of ours.
        assert_eq!(
            write(Some("W/\"1f\", \"x,y\", \"01f\", \"1F\""), None),
            of(&[])
        );
        let none = Some(Condition::NoneOf(vec![one]));
        assert_eq!(write(None, Some("W/\"1f\"")), none);
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for bad in [
            "",
            "1f",
            "\"1f",
            ", ,",
            "\"1f\" \"2\"",
            "*, \"1f\"",
            "w/\"1f\"",
        ] {
            assert!(Conditions::new(Some(bad), None).is_err(), "{bad}");
        }
        let both = Conditions::new(Some("*"), Some("*")).unwrap();
        assert!(both.of_write().is_err());
    }

    #[test]
    fn a_read_is_answered_by_the_state_it_finds() {
        for (matches, none, answer) in [
            (None, None, None),
            (None, Some("\"1\""), SAME),
            (None, Some("W/\"1\", \"7\""), SAME),
            (None, Some("\"2\""), None),
            (Some("\"2\""), None, REFUSED),
            (Some("W/\"1\""), None, REFUSED),
            (Some("\"1\""), Some("*"), SAME),
        ] {
            let conditions = Conditions::new(matches, none).unwrap();
            let answered = conditions.of_read(Revision(1), Some(0));
            assert_eq!(answered, answer, "{matches:?} {none:?}");
        }
    }

    const REFUSED: Option<StatusCode> = Some(StatusCode::PRECONDITION_FAILED);
    const SAME: Option<StatusCode> = Some(StatusCode::NOT_MODIFIED);
    const MATCH: &str = "if-match";
    const NONE_MATCH: &str = "if-none-match";
    const UNTIL: &str = "if-unmodified-since";
    const SINCE: &str = "if-modified-since";

    const SUNDAY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    /// The second of that date, and most of it.
    const SUNDAY_MS: u64 = 784_111_777_999;

    fn conditions(fields: &[(&'static str, &str)]) -> Conditions {
        let name = HeaderName::from_static;
        let fields = fields
            .iter()
            .map(|field| (name(field.0), field.1.parse().unwrap()));
        Conditions::of(&fields.collect()).unwrap()
    }

    #[test]
    fn dates_count_where_there_are_no_tags_that_say_more() {
        let (ours, other) = ("\"1\"", "\"2\"");
        for (fields, at_it, after_it) in [
            (&[(UNTIL, SUNDAY)][..], None, REFUSED),
            (&[(SINCE, SUNDAY)], SAME, None),
            (&[(MATCH, ours), (UNTIL, SUNDAY)], None, None),
            (&[(MATCH, other), (UNTIL, SUNDAY)], REFUSED, REFUSED),
            (&[(NONE_MATCH, other), (SINCE, SUNDAY)], None, None),
            (&[(NONE_MATCH, ours), (UNTIL, SUNDAY)], SAME, REFUSED),
            (&[(UNTIL, SUNDAY), (SINCE, SUNDAY)], SAME, REFUSED),
            (&[(UNTIL, "yesterday")], None, None),
            (&[(SINCE, "784111777")], None, None),
        ] {
            let conditions = conditions(fields);
            let read = |modified_ms| conditions.of_read(Revision(1), modified_ms);
            assert_eq!(read(Some(SUNDAY_MS)), at_it, "{fields:?}");
            assert_eq!(read(Some(SUNDAY_MS + 1)), after_it, "{fields:?}");
        }
        let undated = conditions(&[(UNTIL, SUNDAY), (SINCE, SUNDAY)]);
        assert_eq!(undated.of_read(Revision(1), None), None);
    }

    #[test]
    fn a_date_pins_a_write_to_the_state_that_it_allows() {
        let date = conditions(&[(UNTIL, SUNDAY)]).unmodified_since();
        let pin = |condition, current| date.unwrap().pin(&condition, current);
        let one = Revision(1);
        let refused = Refused::Condition { current: Some(one) };
        let (at_it, after_it) = (Some((one, SUNDAY_MS)), Some((one, SUNDAY_MS + 1)));
        let exactly = Condition::OneOf(vec![one]);
        assert_eq!(pin(Condition::Always, at_it), Ok(exactly));
        assert_eq!(pin(Condition::Always, after_it), Err(refused.clone()));
        assert_eq!(pin(Condition::Absent, at_it), Err(refused));
        assert_eq!(pin(Condition::Always, None), Ok(Condition::Absent));
        let by_tag = conditions(&[(MATCH, "\"1\""), (UNTIL, SUNDAY)]);
        assert_eq!(by_tag.unmodified_since(), None);
    }
}
