//! Any packet as a request and as an answer of the handover: an error, or a message that reads back.
#![no_main]

use bismuth_handover::message::{Answer, Numbered, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    if let Ok(request) = Numbered::<Request>::decode(packet) {
        assert_eq!(Numbered::<Request>::decode(&request.encode()), Ok(request));
    }
    if let Ok(answer) = Numbered::<Answer>::decode(packet) {
        assert_eq!(Numbered::<Answer>::decode(&answer.encode()), Ok(answer));
    }
});
