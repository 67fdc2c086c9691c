//! Any bytes, in any pieces, as replies of bismuth-init: what is read does not depend on where it was cut.
#![no_main]

use bismuth_init::{Reply, ReplyDecoder};
use libfuzzer_sys::fuzz_target;

fn read(pieces: &[&[u8]]) -> (Vec<Reply>, bool) {
    let mut decoder = ReplyDecoder::new();
    let mut replies = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_reply() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(_) => return (replies, false),
            }
        }
    }
    (replies, true)
}

fuzz_target!(|input: (Vec<u8>, usize)| {
    let (bytes, cut) = input;
    let cut = cut.min(bytes.len());
    let whole = read(&[&bytes]);
    let pieces = read(&[&bytes[..cut], &bytes[cut..]]);
    assert_eq!(whole, pieces);
});
