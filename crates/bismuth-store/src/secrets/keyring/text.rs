//! The format of the file of master keys. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use zeroize::Zeroizing;

use super::MasterKey;
use crate::secrets::seal::SealKey;

/// Bytes of the longest id: it travels with every data key.
const MAX_ID_BYTES: usize = 64;

/// Why the text is none of master keys. Says nothing of what stands there but an id. Lines are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Malformed {
    #[error(
        "there is no key in it; a line is an id, a blank and what `openssl rand -base64 32` prints"
    )]
    Empty,
    #[error("line {line} is not an id, a blank and a key")]
    Line { line: usize },
    #[error("the id in line {line} is not 1 to {MAX_ID_BYTES} letters, digits, `-`, `_` and `.`")]
    Id { line: usize },
    #[error("the key in line {line} is not the base64 of 32 bytes")]
    Key { line: usize },
    #[error("the id {id} in line {line} was already there")]
    Twice { line: usize, id: String },
}

/// The first key of a text, and the others.
pub(super) fn parse(text: &[u8]) -> Result<(MasterKey, Vec<MasterKey>), Malformed> {
    let mut keys: Vec<MasterKey> = Vec::new();
    for (line, text) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        let text = std::str::from_utf8(text).map_err(|_| Malformed::Line { line })?;
        // In neither an id nor base64 is there a `#`.
        let text = text.split('#').next().unwrap_or_default();
        let mut words = text.split_whitespace();
        let key = match (words.next(), words.next(), words.next()) {
            (None, ..) => continue,
            (Some(id), Some(key), None) => parse_key(line, id, key)?,
            _ => return Err(Malformed::Line { line }),
        };
        if keys.iter().any(|other| other.id == key.id) {
            return Err(Malformed::Twice { line, id: key.id });
        }
        keys.push(key);
    }
    let mut keys = keys.into_iter();
    let first = keys.next().ok_or(Malformed::Empty)?;
    Ok((first, keys.collect()))
}

fn parse_key(line: usize, id: &str, key: &str) -> Result<MasterKey, Malformed> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if id.len() > MAX_ID_BYTES || !id.bytes().all(plain) {
        return Err(Malformed::Id { line });
    }
    let bytes = STANDARD.decode(key).map(Zeroizing::new);
    let key = bytes.ok().and_then(|bytes| SealKey::from_bytes(&bytes));
    Ok(MasterKey {
        id: id.to_owned(),
        key: key.ok_or(Malformed::Key { line })?,
    })
}

/// A text with one key.
pub(super) fn write(key: &MasterKey) -> Zeroizing<String> {
    const HEAD: &str = "\
# Master keys, the current one first: id, base64 of 32 random bytes.
# Without this file nobody can read the secrets. Keep a copy of it, and not beside theirs.
";
    let encoded = Zeroizing::new(STANDARD.encode(key.key.expose()));
    let parts = [HEAD, &key.id, " ", &encoded, "\n"];
    // Measured first, so that no part of it is left where it was moved from.
    let mut text = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    text.extend(parts);
    Zeroizing::new(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The key that is all ones, and the one that is all zeros.
    const ONES: &str = "//////////////////////////////////////////8=";
    const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn the_first_key_is_the_current_one() {
        let text = format!("# two\n\n  new  {ONES} # made today\r\nold.1\t{ZEROS}");
        let (first, others) = parse(text.as_bytes()).unwrap();
        assert_eq!((first.id(), first.key.expose()), ("new", &[0xff; 32][..]));
        assert_eq!(others.len(), 1);
        assert_eq!(
            (others[0].id(), others[0].key.expose()),
            ("old.1", &[0; 32][..])
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let key = MasterKey::random().unwrap();
        let (read, others) = parse(write(&key).as_bytes()).unwrap();
        assert_eq!((read.id(), read.key.expose()), (key.id(), key.key.expose()));
        assert!(others.is_empty());
    }

    #[test]
    fn what_is_malformed_is_refused_with_its_line() {
        let long = format!("{} {ONES}", "a".repeat(65));
        let twice = format!("a {ONES}\nb {ONES}\na {ZEROS}");
        let id = "a".to_owned();
        for (text, malformed) in [
            ("", Malformed::Empty),
            ("# a b\n\n", Malformed::Empty),
            ("a", Malformed::Line { line: 1 }),
            (ONES, Malformed::Line { line: 1 }),
            ("\na b c", Malformed::Line { line: 2 }),
            (&long, Malformed::Id { line: 1 }),
            ("ä b", Malformed::Id { line: 1 }),
            ("a b", Malformed::Key { line: 1 }),
            ("a AAAA", Malformed::Key { line: 1 }),
            (&format!("a {ONES}A"), Malformed::Key { line: 1 }),
            (&format!("a {}", &ONES[..43]), Malformed::Key { line: 1 }),
            (&twice, Malformed::Twice { line: 3, id }),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), malformed, "{text:?}");
        }
        let error = parse(b"a \xff").unwrap_err();
        assert_eq!(error, Malformed::Line { line: 1 });
    }

    proptest! {
        #[test]
        fn anything_is_refused_or_read_without_a_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _keys = parse(&text);
        }
    }
}
