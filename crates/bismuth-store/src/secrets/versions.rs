//! The record of a secret: its current version and the one before, each sealed. Pure.
//!
//! ```text
//!   1 │ how many (u8): 1 or 2 │ the current one, then the one before:  version (u64) │ length (u32) │ sealed form
//! ```

use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};

use super::manifest::DIGEST_BYTES;

const FORMAT: u8 = 1;

/// One value of a secret, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// Which.
    pub(super) number: u64,
    /// The sealed form.
    pub(super) sealed: Bytes,
}

/// The values of a secret that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Versions {
    /// What it is now.
    pub(super) current: Version,
    /// What it was before.
    pub(super) previous: Option<Version>,
}

impl Versions {
    pub(super) fn get(&self, number: u64) -> Option<&Version> {
        self.iter().find(|version| version.number == number)
    }

    fn iter(&self) -> impl Iterator<Item = &Version> {
        std::iter::once(&self.current).chain(&self.previous)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT, 1 + u8::from(self.previous.is_some())];
        for version in self.iter() {
            let length = u32::try_from(version.sealed.len()).expect("a value has at most 64 KiB");
            bytes.extend_from_slice(&version.number.to_be_bytes());
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&version.sealed);
        }
        bytes
    }

    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        let (format, count) = (bytes.try_get_u8().ok()?, bytes.try_get_u8().ok()?);
        if format != FORMAT || !matches!(count, 1 | 2) {
            return None;
        }
        let versions = Self {
            current: decode(&mut bytes)?,
            previous: match count {
                1 => None,
                _ => Some(decode(&mut bytes)?),
            },
        };
        bytes.is_empty().then_some(versions)
    }
}

fn decode(bytes: &mut Bytes) -> Option<Version> {
    let number = bytes.try_get_u64().ok()?;
    let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
    (length <= bytes.len()).then(|| Version {
        number,
        sealed: bytes.split_to(length),
    })
}

/// By which the manifest knows a record.
pub(super) fn digest(record: &[u8]) -> [u8; DIGEST_BYTES] {
    Sha256::digest(record).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(number: u64, sealed: &'static str) -> Version {
        Version {
            number,
            sealed: sealed.into(),
        }
    }

    #[test]
    fn the_format_is_the_one_that_is_stored() {
        let mut versions = Versions {
            current: version(8, "now"),
            previous: None,
        };
        let golden = b"\x01\x01\0\0\0\0\0\0\0\x08\0\0\0\x03now";
        assert_eq!(versions.encode(), golden);
        versions.previous = Some(version(7, "then"));
        let golden = b"\x01\x02\0\0\0\0\0\0\0\x08\0\0\0\x03now\0\0\0\0\0\0\0\x07\0\0\0\x04then";
        assert_eq!(versions.encode(), golden);
        let decoded = Versions::decode(Bytes::from_static(golden)).unwrap();
        assert_eq!(decoded, versions);
        assert_eq!(decoded.get(7), Some(&version(7, "then")));
        assert_eq!(decoded.get(6), None);
    }

    proptest! {
        #[test]
        fn what_was_cut_or_made_longer_is_no_record(at: prop::sample::Index) {
            let versions = Versions { current: version(8, "now"), previous: Some(version(7, "then")) };
            let bytes = versions.encode();
            let longer = [bytes.as_slice(), b"x"].concat();
            prop_assert_eq!(Versions::decode(longer.into()), None);
            let cut = Bytes::from(bytes).slice(..at.index(32));
            prop_assert_eq!(Versions::decode(cut), None);
        }

        #[test]
        fn anything_is_refused_or_decoded_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _versions = Versions::decode(bytes.into());
        }
    }
}
