//! The messages: round trips, golden bytes, and bytes that are no message.

use bismuth_handover::message::{
    Answer, Attachment, DecodeError, HELD_PER_PACKET, HeldSocket, MAX_PACKET_BYTES,
    MAX_SECRET_BYTES, NodeName, Numbered, Request, SecretValue, TokenDigest,
};
use bismuth_model::{ContainerId, FunctionId, ServiceGroup, ServiceQuotas};
use proptest::{collection::vec, option, prelude::*};

fn group() -> impl Strategy<Value = ServiceGroup> {
    vec(prop::sample::select(b"abcXYZ019-_".to_vec()), 1..=64).prop_map(|bytes| {
        let text = String::from_utf8(bytes).expect("ASCII");
        text.parse().expect("a group")
    })
}

fn quotas() -> impl Strategy<Value = ServiceQuotas> {
    vec(option::of(any::<u64>()), 5).prop_map(|limits| ServiceQuotas {
        kv_bytes: limits[0],
        kv_keys: limits[1],
        blob_bytes: limits[2],
        blob_count: limits[3],
        requests_per_second: limits[4],
    })
}

fn request() -> impl Strategy<Value = Request> {
    let container = any::<[u8; 16]>().prop_map(ContainerId::from_bytes);
    prop_oneof![
        (any::<u8>(), 1..=64_usize).prop_map(|(newest, length)| Request::Hello {
            newest,
            node: NodeName::new("n".repeat(length)).expect("a name"),
        }),
        Just(Request::List),
        (
            container.clone(),
            any::<[u8; 16]>(),
            group(),
            quotas(),
            any::<[u8; 32]>()
        )
            .prop_map(|(container, function, group, quotas, token)| {
                Request::Attach(Attachment {
                    container,
                    function: FunctionId::from_bytes(function),
                    group,
                    quotas,
                    token: TokenDigest(token),
                })
            }),
        container.clone().prop_map(Request::Detach),
        container.prop_map(Request::Duplicate),
        (group(), ".{0,100}").prop_map(|(group, name)| Request::Secret { group, name }),
    ]
}

fn held() -> impl Strategy<Value = HeldSocket> {
    any::<([u8; 16], [u8; 32])>().prop_map(|(container, token)| HeldSocket {
        container: ContainerId::from_bytes(container),
        token: TokenDigest(token),
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        any::<u8>().prop_map(|newest| Answer::Welcome { newest }),
        (vec(held(), 0..20), any::<bool>())
            .prop_map(|(held, more)| Answer::HeldSockets { held, more }),
        Just(Answer::Done),
        Just(Answer::Listener),
        Just(Answer::Absent),
        vec(any::<u8>(), 0..600)
            .prop_map(|bytes| Answer::Secret(SecretValue::new(bytes).expect("it is short"))),
        ".{0,100}".prop_map(|reason| Answer::Refused { reason }),
    ]
}

proptest! {
    #[test]
    fn messages_are_read_back_as_they_were_written(number: u32, request in request(), answer in answer()) {
        let request = Numbered { number, message: request };
        prop_assert_eq!(Numbered::<Request>::decode(&request.encode()), Ok(request));
        let answer = Numbered { number, message: answer };
        prop_assert_eq!(Numbered::<Answer>::decode(&answer.encode()), Ok(answer));
    }

    #[test]
    fn truncated_messages_and_trailing_bytes_are_refused(request in request(), cut in 1_usize..40) {
        let mut bytes = Numbered { number: 7, message: request }.encode().to_vec();
        let short = &bytes[..bytes.len().saturating_sub(cut)];
        prop_assert!(Numbered::<Request>::decode(short).is_err());
        bytes.push(0);
        prop_assert_eq!(Numbered::<Request>::decode(&bytes), Err(DecodeError::Length));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in vec(any::<u8>(), 0..300), kind in prop::sample::select(vec![1_u8, 2, 3, 4, 5, 6, 65, 66, 67, 68, 69, 70, 71]),
    ) {
        let _any = Numbered::<Request>::decode(&bytes);
        let _any = Numbered::<Answer>::decode(&bytes);
        // With a good start the fields are reached.
        let framed = [&[1, kind, 0, 0, 0, 0], bytes.as_slice()].concat();
        let _any = Numbered::<Request>::decode(&framed);
        let _any = Numbered::<Answer>::decode(&framed);
    }
}

#[test]
fn the_bytes_of_version_1_do_not_change() {
    let attach = Request::Attach(Attachment {
        container: ContainerId::from_bytes([0xc0; 16]),
        function: FunctionId::from_bytes([0xf0; 16]),
        group: "team".parse().expect("a group"),
        quotas: ServiceQuotas {
            kv_keys: Some(3),
            requests_per_second: Some(256),
            ..ServiceQuotas::default()
        },
        token: TokenDigest([0xdd; 32]),
    });
    let golden: &[&[u8]] = &[
        b"\x01\x03\x05\x00\x00\x00",
        &[0xc0; 16],
        &[0xf0; 16],
        b"\x04\x00team",
        b"\x12\x03\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00",
        &[0xdd; 32],
    ];
    let number = 5;
    let message = attach;
    assert_eq!(*Numbered { number, message }.encode(), golden.concat());

    let node = NodeName::new("127.0.0.1").expect("a name");
    let message = Request::Hello { newest: 1, node };
    let golden = b"\x01\x01\x05\x00\x00\x00\x01\x09\x00127.0.0.1".to_vec();
    assert_eq!(*Numbered { number, message }.encode(), golden);

    let held = vec![HeldSocket {
        container: ContainerId::from_bytes([0xc0; 16]),
        token: TokenDigest([0xdd; 32]),
    }];
    let message = Answer::HeldSockets { held, more: true };
    let golden: &[&[u8]] = &[b"\x01\x42\x05\x00\x00\x00\x01", &[0xc0; 16], &[0xdd; 32]];
    assert_eq!(*Numbered { number, message }.encode(), golden.concat());
}

#[test]
fn each_kind_of_wrong_message_is_named() {
    let decode = |bytes: &[u8]| Numbered::<Request>::decode(bytes).map(|m| m.message);
    assert_eq!(decode(b""), Err(DecodeError::Length));
    assert_eq!(
        decode(b"\x02\x01"),
        Err(DecodeError::Version { version: 2 })
    );
    assert_eq!(decode(b"\0"), Err(DecodeError::Version { version: 0 }));
    let kind = DecodeError::Kind { kind: 67 };
    assert_eq!(decode(b"\x01\x43\0\0\0\0"), Err(kind));
    let field = DecodeError::Field { field: "group" };
    assert_eq!(decode(b"\x01\x06\0\0\0\0\x02\x00..\x01\x00a"), Err(field));
}

#[test]
fn the_largest_messages_fit_a_packet() {
    let held = HeldSocket {
        container: ContainerId::from_bytes([1; 16]),
        token: TokenDigest([2; 32]),
    };
    for message in [
        Answer::HeldSockets {
            held: vec![held; HELD_PER_PACKET],
            more: true,
        },
        Answer::Secret(SecretValue::new(vec![7; MAX_SECRET_BYTES]).expect("just fits")),
        Answer::Refused {
            reason: "ü".repeat(100_000),
        },
    ] {
        let bytes = Numbered { number: 1, message }.encode();
        assert!(bytes.len() <= MAX_PACKET_BYTES, "{}", bytes.len());
        Numbered::<Answer>::decode(&bytes).expect("it reads back");
    }
    assert!(SecretValue::new(vec![0; MAX_SECRET_BYTES + 1]).is_none());
}

#[test]
fn debug_output_shows_no_secret() {
    let secret = Answer::Secret(SecretValue::new(b"canary".to_vec()).expect("it is short"));
    assert_eq!(format!("{secret:?}"), "Secret(SecretValue(…))");
}
