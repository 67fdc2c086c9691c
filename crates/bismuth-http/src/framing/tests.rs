use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits {
    max_bytes: 256,
    max_fields: 8,
};

fn scan(bytes: &str) -> Scan {
    Framing::new(LIMITS).scan(bytes.as_bytes())
}

/// Feeds the bytes in pieces as the guard does; returns what passed and the last verdict.
fn scan_in_pieces(bytes: &[u8], cuts: &[usize]) -> (usize, Scan, u64) {
    let mut framing = Framing::new(LIMITS);
    let (mut passed, mut held, mut seen) = (0, 0, 0);
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut last = Scan::All;
    for end in ends {
        if end == seen && end != bytes.len() {
            continue;
        }
        seen = end;
        last = framing.scan(&bytes[held..end]);
        match last {
            Scan::All => {
                passed = end;
                held = end;
            }
            Scan::PartialHead(at) => {
                held += at;
                passed = held;
            }
            Scan::Refused(at, _) => {
                passed = held + at;
                break;
            }
            Scan::Broken(_) => break,
        }
    }
    let verdict = match last {
        Scan::Refused(_, refusal) => Scan::Refused(0, refusal),
        Scan::PartialHead(_) => Scan::PartialHead(0),
        Scan::Broken(_) => Scan::Broken(0),
        Scan::All => Scan::All,
    };
    (passed, verdict, framing.heads())
}

#[test]
fn requests_are_told_apart_over_keep_alive_and_pipelining() {
    let stream = concat!(
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        "\r\nGET /last HTTP/1.0\r\n\r\n",
    );
    let mut framing = Framing::new(LIMITS);
    assert_eq!(framing.scan(stream.as_bytes()), Scan::All);
    assert_eq!(framing.heads(), 4);
    assert!(framing.is_between_requests());
}

#[test]
fn every_head_that_can_be_read_in_two_ways_is_refused() {
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let cases = [
        (
            post("Content-Length: 5\r\nTransfer-Encoding: chunked"),
            Refusal::LengthAndEncoding,
        ),
        (
            post("transfer-encoding: chunked\r\ncontent-length: 5"),
            Refusal::LengthAndEncoding,
        ),
        (
            post("Content-Length: 5\r\nContent-Length: 5"),
            Refusal::ContentLength,
        ),
        (
            post("Content-Length: 5\r\nContent-Length: 6"),
            Refusal::ContentLength,
        ),
        (post("Content-Length: 5, 5"), Refusal::ContentLength),
        (post("Content-Length: +5"), Refusal::ContentLength),
        (post("Content-Length: 0x5"), Refusal::ContentLength),
        (post("Content-Length:"), Refusal::ContentLength),
        (
            post("Content-Length: 18446744073709551616"),
            Refusal::ContentLength,
        ),
        (
            post("Transfer-Encoding: gzip, chunked"),
            Refusal::TransferEncoding,
        ),
        (
            post("Transfer-Encoding: chunked, identity"),
            Refusal::TransferEncoding,
        ),
        (
            post("Transfer-Encoding: xchunked"),
            Refusal::TransferEncoding,
        ),
        (
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            Refusal::TransferEncoding,
        ),
        (
            post("Transfer-Encoding : chunked"),
            Refusal::SpaceBeforeColon,
        ),
        (post("X: 1\r\n folded"), Refusal::FoldedField),
        (post("X: 1\n Y: 2"), Refusal::BareLineFeed),
        (post("X: a\rb"), Refusal::BareCarriageReturn),
        (post("no colon"), Refusal::Field),
        (post(": empty name"), Refusal::Field),
        (post("Transfer\0-Encoding: chunked"), Refusal::Field),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), Refusal::BareLineFeed),
        ("GET  / HTTP/1.1\r\n".into(), Refusal::RequestLine),
        ("GET /a b HTTP/1.1\r\n".into(), Refusal::RequestLine),
        ("GET /\r\n".into(), Refusal::RequestLine),
        ("GET /a#b HTTP/1.1\r\n".into(), Refusal::Target),
        ("GET /a<b HTTP/1.1\r\n".into(), Refusal::Target),
        ("GET /a\u{1}b HTTP/1.1\r\n".into(), Refusal::Target),
        ("GET / HTTP/2.0\r\n".into(), Refusal::Version),
        ("G(T / HTTP/1.1\r\n".into(), Refusal::RequestLine),
        (
            "\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n".into(),
            Refusal::RequestLine,
        ),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            Refusal::TransferEncoding,
        ),
    ];
    for (head, refusal) in cases {
        assert_eq!(scan(&head), Scan::Refused(0, refusal), "{head:?}");
    }
}

#[test]
fn a_refusal_says_where_the_good_requests_end() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let stream = format!("{good}GET / HTTP/1.1\n");
    assert_eq!(
        scan(&stream),
        Scan::Refused(good.len(), Refusal::BareLineFeed)
    );
}

#[test]
fn limits_count_bytes_and_fields() {
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(256));
    assert_eq!(scan(&long), Scan::Refused(0, Refusal::HeadTooLarge));
    assert_eq!(scan(&long[..256]), Scan::Refused(0, Refusal::HeadTooLarge));
    assert_eq!(scan(&long[..255]), Scan::PartialHead(0));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(9));
    assert_eq!(scan(&many), Scan::Refused(0, Refusal::TooManyFields));
}

#[test]
fn broken_chunks_are_noticed() {
    for body in [
        "\r\n",
        "g\r\n",
        "5\nhello",
        "5\r\nhello!\r\n",
        "11111111111111111\r\n",
        "0\r\nA: b\n\r\n",
    ] {
        let stream = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert!(matches!(scan(&stream), Scan::Broken(_)), "{body:?}");
    }
}

proptest! {
    #[test]
    fn the_verdict_does_not_depend_on_how_the_bytes_arrive(
        requests in prop::collection::vec(prop::sample::select(vec![
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\n\r\n\r\nabc",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\r\n\r\r\n0\r\nT: v\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "GET / HTTP/1.1\r\nHo",
        ]), 1..6),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let stream = requests.concat();
        let whole = scan_in_pieces(stream.as_bytes(), &[]);
        let pieces = scan_in_pieces(stream.as_bytes(), &cuts);
        prop_assert_eq!(whole.1, pieces.1);
        prop_assert_eq!(whole.2, pieces.2);
        if !matches!(whole.1, Scan::Broken(_)) {
            prop_assert_eq!(whole.0, pieces.0);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), cuts in prop::collection::vec(any::<usize>(), 0..8)) {
        scan_in_pieces(&bytes, &cuts);
    }
}
