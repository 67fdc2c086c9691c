//! Authenticated encryption with associated data. Pure, but for random numbers.
//!
//! ```text
//!   sealed form   1 │ nonce (24) │ ciphertext, as long as the plaintext │ tag (16)         XChaCha20-Poly1305
//!   AAD           for each of purpose, group, …:  length (u32, big endian) │ bytes
//! ```
//!
//! A nonce is random: of 24 bytes, 2^80 messages under one key repeat none with a probability worth a thought
//! (draft-irtf-cfrg-xchacha, section 3.1), so there is no counter to keep over crashes and nodes.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Stands in front of every sealed form.
const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 24;

/// The system's source of random numbers fails.
#[derive(Debug, Error)]
#[error("the system gives no random bytes: {0}")]
pub struct NoRandom(String);

/// Not what was sealed, or not under this key, or not for this use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it is not what was sealed")]
pub struct NotSealed;

/// A key, overwritten when it is dropped; on the heap, so that a move leaves no copy.
#[derive(Clone)]
pub struct SealKey(Box<Zeroizing<[u8; KEY_BYTES]>>);

impl SealKey {
    /// A new key.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn random() -> Result<Self, NoRandom> {
        let mut key = Self(Box::default());
        fill(key.0.as_mut_slice())?;
        Ok(key)
    }

    /// The key of these bytes, if they are as many as a key has.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = Self(Box::default());
        if bytes.len() != KEY_BYTES {
            return None;
        }
        key.0.copy_from_slice(bytes);
        Some(key)
    }

    /// The bytes, to be sealed or stored.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// Shows nothing.
impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(…)")
    }
}

/// Random bytes of the system.
///
/// # Errors
/// When it has none.
pub fn fill(bytes: &mut [u8]) -> Result<(), NoRandom> {
    getrandom::fill(bytes).map_err(|error| NoRandom(error.to_string()))
}

/// What a sealed form is for. It can be opened for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use<'a> {
    /// A group's data key, sealed by a master key.
    DataKey {
        /// Whose.
        group: &'a str,
        /// Which master key.
        master_key: &'a str,
    },
    /// What secrets a group has, sealed by its data key.
    Manifest {
        /// Whose.
        group: &'a str,
    },
    /// One value of a secret, sealed by the group's data key.
    Value {
        /// Whose.
        group: &'a str,
        /// Which secret.
        name: &'a str,
        /// Which of its values.
        version: u64,
    },
}

impl Use<'_> {
    /// The associated data: no two uses have the same.
    fn aad(&self) -> Vec<u8> {
        match self {
            Self::DataKey { group, master_key } => {
                fields(&[b"bismuth data key", group.as_bytes(), master_key.as_bytes()])
            }
            Self::Manifest { group } => fields(&[b"bismuth secret manifest", group.as_bytes()]),
            Self::Value {
                group,
                name,
                version,
            } => fields(&[
                b"bismuth secret value",
                group.as_bytes(),
                name.as_bytes(),
                &version.to_be_bytes(),
            ]),
        }
    }
}

fn fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        let length = u32::try_from(field.len()).expect("names are far below 4 GiB");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// Seals a text for a use.
///
/// # Errors
/// When the system has no random numbers.
pub fn seal(key: &SealKey, to: Use<'_>, plaintext: &[u8]) -> Result<Vec<u8>, NoRandom> {
    let mut nonce = [0; NONCE_BYTES];
    fill(&mut nonce)?;
    Ok(seal_with(key, nonce, to, plaintext))
}

fn seal_with(key: &SealKey, nonce: [u8; NONCE_BYTES], to: Use<'_>, plaintext: &[u8]) -> Vec<u8> {
    let payload = Payload {
        msg: plaintext,
        aad: &to.aad(),
    };
    let ciphertext = cipher(key)
        .encrypt(&XNonce::from(nonce), payload)
        .expect("only 256 GiB are too long to be encrypted");
    [&[FORMAT], nonce.as_slice(), &ciphertext].concat()
}

/// Opens a sealed form.
///
/// # Errors
/// When it was not sealed under this key for this use, or is not as it was.
pub fn open(key: &SealKey, to: Use<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotSealed> {
    let (&format, rest) = sealed.split_first().ok_or(NotSealed)?;
    let (&nonce, ciphertext) = rest.split_first_chunk().ok_or(NotSealed)?;
    if format != FORMAT {
        return Err(NotSealed);
    }
    let payload = Payload {
        msg: ciphertext,
        aad: &to.aad(),
    };
    let opened = cipher(key).decrypt(&XNonce::from(nonce), payload);
    opened.map(Zeroizing::new).map_err(|_| NotSealed)
}

fn cipher(key: &SealKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new_from_slice(key.expose()).expect("a key has 32 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(first: u8) -> SealKey {
        let bytes: Vec<u8> = (first..).take(KEY_BYTES).collect();
        SealKey::from_bytes(&bytes).unwrap()
    }

    fn value<'a>(group: &'a str, name: &'a str, version: u64) -> Use<'a> {
        Use::Value {
            group,
            name,
            version,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes were computed apart from this library: HChaCha20 by hand, ChaCha20-Poly1305 by OpenSSL.
    #[test]
    fn the_format_is_the_one_that_is_stored() {
        let nonce: Vec<u8> = (0x40..0x58).collect();
        let nonce = nonce.try_into().unwrap();
        for (to, golden) in [
            (
                value("group", "name", 7),
                "01404142434445464748494a4b4c4d4e4f5051525354555657a4556419be941c6efbc264e35ce52d41db05c175a14abee5cc",
            ),
            (
                Use::Manifest { group: "group" },
                "01404142434445464748494a4b4c4d4e4f5051525354555657a4556419be941c6efb86427971c55499b576f90034177f9934",
            ),
            (
                Use::DataKey {
                    group: "group",
                    master_key: "id",
                },
                "01404142434445464748494a4b4c4d4e4f5051525354555657a4556419be941c6efb37e4feb92390395d72aafa33d7821a6a",
            ),
        ] {
            let sealed = seal_with(&key(0), nonce, to, b"plaintext");
            assert_eq!(hex(&sealed), golden, "{to:?}");
            assert_eq!(*open(&key(0), to, &sealed).unwrap(), b"plaintext");
        }
    }

    #[test]
    fn a_sealed_form_opens_for_its_own_use_only() {
        let uses = [
            value("a", "b", 1),
            value("a", "b", 2),
            value("b", "a", 1),
            value("ab", "", 1),
            value("", "ab", 1),
            Use::Manifest { group: "a" },
            Use::Manifest { group: "b" },
            Use::DataKey {
                group: "a",
                master_key: "b",
            },
            Use::DataKey {
                group: "b",
                master_key: "a",
            },
        ];
        for sealed_for in uses {
            let sealed = seal(&key(1), sealed_for, b"text").unwrap();
            for opened_for in uses {
                let opened = open(&key(1), opened_for, &sealed);
                let expected = sealed_for == opened_for;
                assert_eq!(opened.is_ok(), expected, "{sealed_for:?} {opened_for:?}");
            }
            assert_eq!(open(&key(2), sealed_for, &sealed).err(), Some(NotSealed));
        }
    }

    #[test]
    fn sealing_twice_gives_two_forms() {
        let to = value("a", "b", 1);
        let once = seal(&key(1), to, b"text").unwrap();
        assert_ne!(once, seal(&key(1), to, b"text").unwrap());
    }

    #[test]
    fn a_key_shows_nothing_of_itself() {
        assert_eq!(format!("{:?}", SealKey::random().unwrap()), "SealKey(…)");
        assert!(SealKey::from_bytes(&[0; 31]).is_none());
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened(
            text in prop::collection::vec(any::<u8>(), 0..300),
            group in ".{0,20}",
            name in ".{0,20}",
            version: u64,
        ) {
            let to = value(&group, &name, version);
            let sealed = seal(&key(9), to, &text).unwrap();
            prop_assert_eq!(&*open(&key(9), to, &sealed).unwrap(), &text);
        }

        #[test]
        fn what_was_edited_cut_or_made_longer_is_refused(
            text in prop::collection::vec(any::<u8>(), 0..300),
            at: prop::sample::Index,
            bit in 0..8_u8,
            more in prop::collection::vec(any::<u8>(), 1..9),
        ) {
            let to = Use::Manifest { group: "g" };
            let sealed = seal(&key(9), to, &text).unwrap();
            let at = at.index(sealed.len());
            let mut edited = sealed.clone();
            edited[at] ^= 1 << bit;
            prop_assert!(open(&key(9), to, &edited).is_err());
            prop_assert!(open(&key(9), to, &sealed[..at]).is_err());
            prop_assert!(open(&key(9), to, &[&sealed, more.as_slice()].concat()).is_err());
        }

        #[test]
        fn anything_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let to = Use::Manifest { group: "g" };
            prop_assert!(open(&key(9), to, &bytes).is_err());
        }
    }
}
