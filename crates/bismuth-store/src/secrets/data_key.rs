//! A group's data key as it is stored: wrapped under a master key. Pure, but for random numbers.
//!
//! ```text
//!   1 │ length of the id (u8) │ id of the master key │ sealed form of 32 bytes
//! ```

use super::keyring::MasterKey;
use super::seal::{self, NoRandom, NotSealed, SealKey, Use};

const FORMAT: u8 = 1;

/// A data key that is not opened yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrapped<'a> {
    /// The id of the master key that it is sealed under.
    pub(super) master_key: &'a str,
    sealed: &'a [u8],
}

impl<'a> Wrapped<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&[FORMAT, length], rest) = bytes.split_first_chunk()? else {
            return None;
        };
        let (id, sealed) = rest.split_at_checked(length.into())?;
        Some(Self {
            master_key: std::str::from_utf8(id).ok()?,
            sealed,
        })
    }

    pub(super) fn open(&self, group: &str, master_key: &MasterKey) -> Result<SealKey, NotSealed> {
        let to = Use::DataKey {
            group,
            master_key: master_key.id(),
        };
        let bytes = seal::open(&master_key.key, to, self.sealed)?;
        SealKey::from_bytes(&bytes).ok_or(NotSealed)
    }
}

/// Seals a data key under a master key, to be stored.
pub(super) fn wrap(
    group: &str,
    key: &SealKey,
    master_key: &MasterKey,
) -> Result<Vec<u8>, NoRandom> {
    let id = master_key.id();
    let to = Use::DataKey {
        group,
        master_key: id,
    };
    let sealed = seal::seal(&master_key.key, to, key.expose())?;
    let length = u8::try_from(id.len()).expect("the keyring allows 64 bytes");
    Ok([&[FORMAT, length], id.as_bytes(), &sealed].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn master(id: &str, byte: u8) -> MasterKey {
        MasterKey {
            id: id.to_owned(),
            key: SealKey::from_bytes(&[byte; 32]).unwrap(),
        }
    }

    #[test]
    fn a_data_key_opens_for_its_group_under_its_master_key_only() {
        let key = SealKey::random().unwrap();
        let wrapped = wrap("group", &key, &master("one", 1)).unwrap();
        let wrapped = Wrapped::parse(&wrapped).unwrap();
        assert_eq!(wrapped.master_key, "one");
        let opened = wrapped.open("group", &master("one", 1)).unwrap();
        assert_eq!(opened.expose(), key.expose());
        assert!(wrapped.open("other", &master("one", 1)).is_err());
        assert!(wrapped.open("group", &master("one", 2)).is_err());
        assert!(wrapped.open("group", &master("two", 1)).is_err());
    }

    #[test]
    fn what_is_no_data_key_is_refused() {
        for bytes in [
            &b""[..],
            b"\x01",
            b"\x02\x00",
            b"\x01\x02a",
            b"\x01\x01\xff",
        ] {
            assert_eq!(Wrapped::parse(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_data_key_that_was_edited_is_refused(at: prop::sample::Index, bit in 0..8_u8) {
            let master_key = master("id", 1);
            let mut bytes = wrap("group", &SealKey::random().unwrap(), &master_key).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let id = b"\x01\x02id";
            // In another key's name it is not opened by this one.
            let refused = at < id.len() && Wrapped::parse(&bytes).is_none_or(|it| it.master_key != "id");
            prop_assert!(refused || Wrapped::parse(&bytes).unwrap().open("group", &master_key).is_err());
        }
    }
}
