//! Binary encoding of the stored records. The only file that names the crate `bincode`.
//!
//! Its 3.0.0 does not compile and nothing is expected after 2.0.1, so whatever replaces it is written here: the
//! byte form is little-endian, integers above 250 in the marker-and-value form, lengths and enum tags as such
//! integers, strings and lists as length and elements, an option as 0 or 1 and the value.

pub(super) use bincode::{Decode, Encode};

/// What a decoder may claim in memory at most. The encoded form is at most 64 KiB, yet a length in it is believed
/// before the elements are read; this is the largest list that 64 KiB can hold (a byte per element) times the size
/// of the largest element (48 bytes, a pair of strings), rounded up.
const MEMORY_LIMIT: usize = 4 << 20;

/// What is wrong with bytes that are not the record they should be.
pub(super) type Fault = Box<dyn std::error::Error + Send + Sync + 'static>;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MEMORY_LIMIT>()
}

/// Appends the encoded form of `value` to `bytes`.
pub(super) fn encode<T: Encode>(value: &T, bytes: &mut Vec<u8>) -> Result<(), Fault> {
    // The limit is for decoding only; what is too large to store is refused by its size and its name.
    bincode::encode_into_std_write(value, bytes, bincode::config::standard())?;
    Ok(())
}

/// Decodes a value, and says how many bytes it took.
pub(super) fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<(T, usize), Fault> {
    Ok(bincode::decode_from_slice(bytes, config())?)
}
