//! Any bytes as a backend list: an error, or a list that packs to the same bytes.
#![no_main]

use bismuth_model::Backend;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(list) = Backend::decode_list(bytes) {
        assert_eq!(Backend::encode_list(&list), bytes);
    }
});
