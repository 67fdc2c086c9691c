//! Malformed requests and misbehaving peers do not stop init.

use std::{io::Write as _, os::fd::AsFd as _};

use bismuth_init::protocol::VERSION;
use bismuth_init::{FailureKind, Reply, ReplyDecoder};

use crate::harness::{Init, next_reply};

#[test]
fn garbage_is_refused_by_name_and_harms_nobody() {
    let init = Init::plain();
    let good = init.request(&["busybox", "true"]).encode().expect("short");
    let cases: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "does not start with"),
        (
            b"BsmI\x04\x00\x00\x00\x00\x00\x00\x00",
            "version 4, and this init knows 1 to 3",
        ),
        (b"BsmI\x01\x00\x00\x00\xff\xff\xff\xff", "is the limit"),
        (
            b"BsmI\x01\x00\x00\x00\x04\x00\x00\x00abcd",
            "length that its fields say",
        ),
        (&good, "0 descriptors came with the request, not 3"),
    ];
    for (bytes, text) in cases {
        let mut stream = init.connect();
        stream.write_all(bytes).expect("it reads");
        let mut decoder = ReplyDecoder::new();
        assert_eq!(
            next_reply(&mut stream, &mut decoder),
            Some(Reply::Hello { version: VERSION })
        );
        let Some(Reply::SpawnFailed { kind, what, .. }) = next_reply(&mut stream, &mut decoder)
        else {
            panic!("{bytes:?} was not refused");
        };
        assert_eq!(kind, FailureKind::Protocol);
        assert!(what.contains(text), "{what:?} does not say {text:?}");
        assert_eq!(next_reply(&mut stream, &mut decoder), None);
    }
    init.assert_alive();
}

#[test]
fn a_connection_that_ends_early_is_removed() {
    let init = Init::plain();
    init.assert_alive();
    init.wait_idle();
    let good = init.request(&["busybox", "true"]).encode().expect("short");
    for length in [0, 1, 11, 12, 13, good.len() - 1] {
        let mut stream = init.connect();
        stream.write_all(&good[..length]).expect("it reads");
    }
    init.wait_idle();
    init.assert_alive();
}

#[test]
fn bytes_after_the_request_end_the_execution() {
    let init = Init::plain();
    let mut program = init.exec(&["busybox", "sleep", "1000"]);
    program.spawned();
    program.stream.write_all(b"more").expect("it reads");
    assert_eq!(program.rest(), "", "the program was killed");
    assert_eq!(program.reply(), None);
    init.wait_childless();
    init.assert_alive();
}

#[test]
fn a_host_that_closes_at_once_does_not_leave_the_program_running() {
    let init = Init::plain();
    for _ in 0..50 {
        drop(init.exec(&["busybox", "sleep", "1000"]));
    }
    init.assert_alive();
    init.wait_childless();
}

#[test]
fn descriptors_may_be_one_and_the_same() {
    let init = Init::plain();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let request = init.request(&["busybox", "cat"]);
    let mut stream = init.connect();
    bismuth_init::send_request(&stream, &request, [theirs.as_fd(); 3]).expect("it reads");
    drop(theirs);
    (&ours).write_all(b"both ways").expect("it reads");
    ours.shutdown(std::net::Shutdown::Write).expect("open");
    let mut back = String::new();
    std::io::Read::read_to_string(&mut &ours, &mut back).expect("text");
    assert_eq!(back, "both ways");
    let mut decoder = ReplyDecoder::new();
    let last = std::iter::from_fn(|| next_reply(&mut stream, &mut decoder)).last();
    assert_eq!(last, Some(Reply::Exited(bismuth_init::Exit::Code(0))));
}
