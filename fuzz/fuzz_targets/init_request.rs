//! Any bytes, in any pieces, as a request to bismuth-init: an error, not yet whole, or a request that reads back.
#![no_main]

use bismuth_init::protocol::RequestDecoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<Vec<u8>>| {
    let mut decoder = RequestDecoder::default();
    for piece in &pieces {
        match decoder.push(piece) {
            Ok(None) => {}
            Ok(Some(request)) => {
                let Ok(encoded) = request.encode() else { return };
                let again = RequestDecoder::default().push(&encoded).expect("what was encoded is a request");
                assert_eq!(again, Some(request));
                return;
            }
            Err(_) => return,
        }
    }
});
