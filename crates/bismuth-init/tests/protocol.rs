//! The protocol: round trips, golden bytes, malformed bytes.

use std::ffi::CString;

use bismuth_init::protocol::{
    AfterInject, ExecRequest, Exit, FailureKind, InjectRequest, MAX_BODY_BYTES, ProtocolError,
    Reply, ReplyDecoder, Request, RequestDecoder, RequestError, SecretFile,
};
use proptest::{collection::vec, prelude::*};

fn c_string() -> impl Strategy<Value = CString> {
    vec(1..=u8::MAX, 0..40).prop_map(|bytes| CString::new(bytes).expect("no zero bytes"))
}

fn request() -> impl Strategy<Value = ExecRequest> {
    let strings = (vec(c_string(), 1..6), vec(c_string(), 0..6), c_string());
    let numbers = (any::<u32>(), any::<u32>(), vec(any::<u32>(), 0..4));
    (strings, numbers).prop_map(|((argv, env, cwd), (uid, gid, groups))| ExecRequest {
        argv,
        env,
        cwd,
        uid,
        gid,
        groups,
    })
}

fn file() -> impl Strategy<Value = SecretFile> {
    let name = vec(1..=u8::MAX, 1..20).prop_filter_map("one path segment", |bytes| {
        let is_segment = !bytes.contains(&b'/') && bytes != b"." && bytes != b"..";
        is_segment.then(|| CString::new(bytes).expect("no zero bytes"))
    });
    (name, vec(any::<u8>(), 0..60)).prop_map(|(name, content)| SecretFile { name, content })
}

fn inject_request() -> impl Strategy<Value = InjectRequest> {
    let then = prop_oneof![
        vec(c_string(), 0..4).prop_map(AfterInject::Serve),
        request().prop_map(AfterInject::Become),
    ];
    (vec(file(), 0..4), then).prop_map(|(files, then)| InjectRequest { files, then })
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        any::<u16>().prop_map(|version| Reply::Hello { version }),
        any::<u32>().prop_map(|pid| Reply::Spawned { pid }),
        (any::<i32>(), ".{0,60}").prop_map(|(errno, what)| Reply::SpawnFailed {
            kind: FailureKind::BadInterpreter,
            errno,
            what,
        }),
        any::<i32>().prop_map(|code| Reply::Exited(Exit::Code(code))),
        any::<i32>().prop_map(|signal| Reply::Exited(Exit::Signal(signal))),
        Just(Reply::Injected),
    ]
}

/// Feeds `bytes` in pieces of `piece` bytes.
fn decode(bytes: &[u8], piece: usize) -> Result<Option<Request>, ProtocolError> {
    let mut decoder = RequestDecoder::default();
    let mut decoded = None;
    for piece in bytes.chunks(piece) {
        assert_eq!(decoded, None, "it was complete too early");
        decoded = decoder.push(piece)?;
    }
    Ok(decoded)
}

proptest! {
    #[test]
    fn a_request_survives_the_journey_in_pieces_of_any_size(
        request in request(), piece in 1_usize..200,
    ) {
        let bytes = request.encode().expect("it is short");
        prop_assert_eq!(decode(&bytes, piece), Ok(Some(Request::Spawn(request))));
    }

    #[test]
    fn an_injection_survives_the_journey_in_pieces_of_any_size(
        injection in inject_request(), piece in 1_usize..200,
    ) {
        let bytes = injection.encode().expect("it is short");
        prop_assert_eq!(decode(&bytes, piece), Ok(Some(Request::Inject(injection))));
    }

    #[test]
    fn a_request_that_is_cut_short_is_never_complete(request in request(), cut in 1_usize..60) {
        let bytes = request.encode().expect("it is short");
        let rest = &bytes[..bytes.len().saturating_sub(cut)];
        prop_assert_eq!(decode(rest, rest.len().max(1)), Ok(None));
    }

    #[test]
    fn replies_survive_the_journey_in_pieces_of_any_size(
        replies in vec(reply(), 0..6), piece in 1_usize..50,
    ) {
        let mut bytes = Vec::new();
        replies.iter().for_each(|reply| reply.encode_into(&mut bytes));
        let (mut decoder, mut decoded) = (ReplyDecoder::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            while let Some(reply) = decoder.next_reply().expect("they are replies") {
                decoded.push(reply);
            }
        }
        prop_assert_eq!(decoded, replies);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_waited_on_but_never_panic(
        bytes in vec(any::<u8>(), 0..400), piece in 1_usize..50, version in 1_u8..=3,
        body in vec(any::<u8>(), 0..200),
    ) {
        let _any = decode_any(&bytes, piece);
        // With a good header the fields are reached.
        let mut framed = [b"BsmI", &[version, 0, 0, 0][..]].concat();
        framed.extend((body.len() as u32).to_le_bytes());
        framed.extend(body);
        let _any = decode_any(&framed, piece);
        let mut decoder = ReplyDecoder::new();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next_reply() {}
    }
}

fn decode_any(bytes: &[u8], piece: usize) -> Result<(), ProtocolError> {
    let mut decoder = RequestDecoder::default();
    for piece in bytes.chunks(piece) {
        decoder.push(piece)?;
    }
    Ok(())
}

#[test]
fn version_1_stays_as_it_is() {
    let mut request = ExecRequest::new(["ls", "-l"], ["A=b"], "/tmp", (1000, 1001)).expect("fine");
    request.groups = vec![5];
    let golden: &[&[u8]] = &[
        b"BsmI\x01\x00\x00\x00",
        b"\x33\x00\x00\x00",
        b"\xe8\x03\x00\x00\xe9\x03\x00\x00",
        b"\x01\x00\x00\x00\x05\x00\x00\x00",
        b"\x04\x00\x00\x00/tmp",
        b"\x02\x00\x00\x00\x02\x00\x00\x00ls\x02\x00\x00\x00-l",
        b"\x01\x00\x00\x00\x03\x00\x00\x00A=b",
    ];
    let golden = golden.concat();
    assert_eq!(request.encode().expect("it is short"), golden);
    assert_eq!(
        decode(&golden, golden.len()),
        Ok(Some(Request::Spawn(request)))
    );

    let replies = [
        (
            Reply::Hello { version: 1 },
            b"\x01\x02\x00\x01\x00".to_vec(),
        ),
        (
            Reply::Spawned { pid: 7 },
            b"\x02\x04\x00\x07\x00\x00\x00".to_vec(),
        ),
        (
            Reply::SpawnFailed {
                kind: FailureKind::ProgramNotFound,
                errno: 2,
                what: "no".to_owned(),
            },
            b"\x03\x07\x00\x01\x02\x00\x00\x00no".to_vec(),
        ),
        (
            Reply::Exited(Exit::Code(3)),
            b"\x04\x05\x00\x00\x03\x00\x00\x00".to_vec(),
        ),
        (
            Reply::Exited(Exit::Signal(9)),
            b"\x04\x05\x00\x01\x09\x00\x00\x00".to_vec(),
        ),
    ];
    for (reply, golden) in replies {
        let mut bytes = Vec::new();
        reply.encode_into(&mut bytes);
        assert_eq!(bytes, golden, "{reply:?}");
    }
}

#[test]
fn version_2_stays_as_it_is() {
    let injection = InjectRequest {
        files: vec![SecretFile {
            name: c"key".into(),
            content: b"a\0b".to_vec(),
        }],
        then: AfterInject::Become(ExecRequest::new(["ls"], ["A=b"], "/", (1, 2)).expect("fine")),
    };
    let golden: &[&[u8]] = &[
        b"BsmI\x02\x00\x00\x00",
        b"\x39\x00\x00\x00",
        b"\x01\x00\x00\x00\x03\x00\x00\x00key\x03\x00\x00\x00a\0b",
        b"\x01",
        b"\x01\x00\x00\x00\x02\x00\x00\x00",
        b"\x00\x00\x00\x00",
        b"\x01\x00\x00\x00/",
        b"\x01\x00\x00\x00\x02\x00\x00\x00ls",
        b"\x01\x00\x00\x00\x03\x00\x00\x00A=b",
    ];
    let golden = golden.concat();
    assert_eq!(injection.encode().expect("it is short"), golden);
    let decoded = decode(&golden, golden.len());
    assert_eq!(decoded, Ok(Some(Request::Inject(injection))));
    let mut bytes = Vec::new();
    Reply::Injected.encode_into(&mut bytes);
    assert_eq!(bytes, b"\x05\x00\x00");
}

#[test]
fn an_injection_without_variables_is_of_version_2_for_an_older_init() {
    let injection = InjectRequest {
        files: Vec::new(),
        then: AfterInject::Serve(Vec::new()),
    };
    let golden = b"BsmI\x02\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x00";
    assert_eq!(injection.encode().expect("it is short"), golden);
}

#[test]
fn version_3_stays_as_it_is() {
    let injection = InjectRequest {
        files: vec![SecretFile {
            name: c"key".into(),
            content: b"a\0b".to_vec(),
        }],
        then: AfterInject::Serve(vec![c"A=b".into(), c"C=".into()]),
    };
    let golden: &[&[u8]] = &[
        b"BsmI\x03\x00\x00\x00",
        b"\x24\x00\x00\x00",
        b"\x01\x00\x00\x00\x03\x00\x00\x00key\x03\x00\x00\x00a\0b",
        b"\x02",
        b"\x02\x00\x00\x00\x03\x00\x00\x00A=b\x02\x00\x00\x00C=",
    ];
    let mut golden = golden.concat();
    assert_eq!(injection.encode().expect("it is short"), golden);
    let shown = format!("{injection:?}");
    assert!(!shown.contains("A=b"), "{shown}");
    let decoded = decode(&golden, golden.len());
    assert_eq!(decoded, Ok(Some(Request::Inject(injection))));
    // In version 2 there was no such kind.
    golden[4] = 2;
    let decoded = decode(&golden, golden.len());
    assert_eq!(decoded, Err(ProtocolError::Kind { kind: 2 }));
}

#[test]
fn a_secret_file_whose_name_is_no_file_name_is_refused() {
    for name in [c"", c".", c"..", c"a/b", c"/etc/passwd"] {
        let injection = InjectRequest {
            files: vec![SecretFile {
                name: name.into(),
                content: Vec::new(),
            }],
            then: AfterInject::Serve(Vec::new()),
        };
        let bytes = injection.encode().expect("it is short");
        let name = name.into();
        assert_eq!(
            decode(&bytes, bytes.len()),
            Err(ProtocolError::FileName { name })
        );
    }
}

#[test]
fn a_count_larger_than_the_message_is_refused_before_anything_is_allocated() {
    // uid, gid, then four thousand million groups.
    let body = [[0; 8].as_slice(), &[0xff; 4]].concat();
    let bytes = [b"BsmI\x01\x00\x00\x00\x0c\x00\x00\x00".as_slice(), &body].concat();
    assert_eq!(decode(&bytes, 100), Err(ProtocolError::Length));
}

#[test]
fn each_kind_of_wrong_request_is_named() {
    let header = |version: u8, length: u32| {
        let mut bytes = b"BsmI".to_vec();
        bytes.extend([version, 0, 0, 0]);
        bytes.extend(length.to_le_bytes());
        bytes
    };
    let cases = [
        (b"GET / HTTP/1.1\r\n".to_vec(), ProtocolError::Magic),
        (header(9, 0), ProtocolError::Version { version: 9 }),
        (header(0, 0), ProtocolError::Version { version: 0 }),
        (
            header(1, u32::MAX),
            ProtocolError::TooLong {
                bytes: u32::MAX as usize,
                limit: MAX_BODY_BYTES,
            },
        ),
        (header(1, 0), ProtocolError::Length),
        ([header(1, 0), vec![0]].concat(), ProtocolError::Trailing),
    ];
    for (bytes, expected) in cases {
        assert_eq!(decode(&bytes, bytes.len()), Err(expected));
    }
}

#[test]
fn a_request_that_cannot_be_encoded_is_refused() {
    let none: [&str; 0] = [];
    let empty = ExecRequest::new(none, none, "/", (0, 0)).expect("no zero bytes");
    assert!(matches!(empty.encode(), Err(RequestError::NoProgram)));
    let zero = ExecRequest::new(["a\0b"], none, "/", (0, 0));
    assert!(matches!(zero, Err(RequestError::ZeroByte(_))));
    let long = "x".repeat(MAX_BODY_BYTES);
    let long = ExecRequest::new([long.as_str()], none, "/", (0, 0)).expect("no zero bytes");
    assert!(matches!(long.encode(), Err(RequestError::TooLong { .. })));
}

#[test]
fn a_text_that_is_too_long_is_cut_between_characters() {
    let mut bytes = Vec::new();
    Reply::SpawnFailed {
        kind: FailureKind::Other,
        errno: 0,
        what: "ü".repeat(9000),
    }
    .encode_into(&mut bytes);
    let mut decoder = ReplyDecoder::new();
    decoder.push(&bytes);
    let Ok(Some(Reply::SpawnFailed { what, .. })) = decoder.next_reply() else {
        panic!("it is a failure");
    };
    assert!(what.len() > 5000 && what.chars().all(|c| c == 'ü'));
}
