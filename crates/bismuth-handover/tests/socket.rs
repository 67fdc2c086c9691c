//! Client and server over real sockets.

use std::fs::Permissions;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use bismuth_handover::{
    Answer, Attachment, BindError, CallError, Client, Connection, HeldSocket, Listener, NodeName,
    Request, SecretValue, TokenDigest, TransportError,
};
use bismuth_model::{ContainerId, FunctionId, ServiceQuotas};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

fn node() -> NodeName {
    NodeName::new("127.0.0.1").expect("a name")
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .expect("a pair of sockets")
}

async fn connected() -> (Client, Connection) {
    let (near, far) = pair();
    let mut server = Connection::new(far).expect("our own user");
    let name = node();
    let (client, greeted) = tokio::join!(Client::from_socket(near, &name), server.handshake());
    assert_eq!(greeted.expect("a greeting"), node());
    (client.expect("a welcome"), server)
}

fn attachment(n: u8) -> Attachment {
    let function = FunctionId::from_bytes([n; 16]);
    Attachment {
        container: ContainerId::from_bytes([n; 16]),
        function,
        group: function.into(),
        quotas: ServiceQuotas::default(),
        token: TokenDigest::of(&[n]),
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("loopback is there")
}

#[tokio::test]
async fn a_socket_goes_over_and_comes_back_as_the_same_socket() {
    let (mut client, mut server) = connected().await;
    let ours = listener();
    let address = ours.local_addr().expect("bound");
    let serve = async {
        let received = server.next().await.expect("an Attach");
        assert_eq!(received.request, Request::Attach(attachment(1)));
        let theirs = received.listener.expect("it came along");
        server
            .answer(received.number, Answer::Done, None)
            .await
            .expect("it is read");
        let received = server.next().await.expect("a Duplicate");
        let container = attachment(1).container;
        assert_eq!(received.request, Request::Duplicate(container));
        server
            .answer(received.number, Answer::Listener, Some(theirs.as_fd()))
            .await
            .expect("it is read");
    };
    let ask = async {
        client
            .attach(attachment(1), ours.as_fd())
            .await
            .expect("it is done");
        drop(ours);
        let back = client.duplicate(attachment(1).container).await;
        TcpListener::from(back.expect("an answer").expect("a socket"))
    };
    let ((), back) = tokio::join!(serve, ask);
    assert_eq!(back.local_addr().expect("bound"), address);
}

#[tokio::test]
async fn thousands_of_held_sockets_are_listed_in_several_packets() {
    let held: Vec<HeldSocket> = (0..5000_u32)
        .map(|n| HeldSocket {
            container: ContainerId::from_bytes(u128::from(n).to_le_bytes()),
            token: TokenDigest::of(&n.to_le_bytes()),
        })
        .collect();
    for held in [&held[..], &held[..1024], &held[..0]] {
        let (mut client, mut server) = connected().await;
        let serve = async {
            let received = server.next().await.expect("a List");
            assert_eq!(received.request, Request::List);
            server
                .send_held_sockets(received.number, held)
                .await
                .expect("it is read");
        };
        let ((), told) = tokio::join!(serve, client.held_sockets());
        assert_eq!(told.expect("a list"), held);
    }
}

#[tokio::test]
async fn the_answer_to_a_cancelled_call_is_not_taken_for_the_next() {
    let (mut client, mut server) = connected().await;
    let container = attachment(1).container;
    {
        let given_up = client.duplicate(container);
        tokio::pin!(given_up);
        let received = tokio::select! {
            _ = &mut given_up => panic!("nobody has answered"),
            received = server.next() => received.expect("a Duplicate"),
        };
        let late = listener();
        server
            .answer(received.number, Answer::Listener, Some(late.as_fd()))
            .await
            .expect("it is read");
    }
    let serve = async {
        let received = server.next().await.expect("a Detach");
        server
            .answer(received.number, Answer::Done, None)
            .await
            .expect("it is read");
    };
    let ((), detached) = tokio::join!(serve, client.detach(container));
    detached.expect("it is done");
}

#[tokio::test]
async fn a_refusal_keeps_the_connection_open() {
    let (mut client, mut server) = connected().await;
    let container = attachment(1).container;
    let serve = async {
        let received = server.next().await.expect("a Detach");
        let reason = "no room".to_owned();
        server
            .answer(received.number, Answer::Refused { reason }, None)
            .await
            .expect("it is read");
    };
    let ((), refused) = tokio::join!(serve, client.detach(container));
    let refused = refused.expect_err("it is refused");
    assert!(refused.is_refusal(), "{refused}");
    let still_open = tokio::select! {
        biased;
        () = client.closed() => false,
        () = std::future::ready(()) => true,
    };
    assert!(still_open, "nothing has happened since");
    drop(server);
    client.closed().await;
    let ended = client.detach(container).await.expect_err("it has ended");
    assert!(
        matches!(ended, CallError::Transport(TransportError::Closed)),
        "{ended}"
    );
}

#[tokio::test]
async fn a_secret_goes_over_the_wire() {
    let (mut client, mut server) = connected().await;
    let group = attachment(1).group;
    let serve = async {
        for answer in [
            Answer::Secret(SecretValue::new(vec![9; 60_000]).expect("it is short enough")),
            Answer::Absent,
        ] {
            let received = server.next().await.expect("a Secret");
            server
                .answer(received.number, answer, None)
                .await
                .expect("it is read");
        }
    };
    let ask = async {
        let value = client.secret(&group, "key").await.expect("an answer");
        assert_eq!(value.expect("there is one").expose(), vec![9; 60_000]);
        assert_eq!(
            client.secret(&group, "other").await.expect("an answer"),
            None
        );
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_packet_that_is_no_request_ends_the_connection() {
    for (bytes, wanted) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "decode a packet"),
        (&[0; 100_000][..], "a packet of"),
        // A Detach instead of a greeting.
        (
            &b"\x01\x04\0\0\0\x000123456789abcdef"[..],
            "before its Hello",
        ),
        (&b""[..], "was closed"),
    ] {
        let (near, far) = pair();
        let mut server = Connection::new(far).expect("our own user");
        rustix::net::send(&near, bytes, SendFlags::NOSIGNAL).expect("it fits");
        let error = server.handshake().await.expect_err("it is no greeting");
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("made/on/the/way.sock");
    let first = Listener::bind(&path).expect("nobody serves it");
    let second = Listener::bind(&path).expect_err("somebody serves it");
    assert!(matches!(second, BindError::InUse { .. }), "{second}");
    drop(first);
    assert!(path.exists(), "a crash would have left it as well");
    let lock = dir.path().join("made/on/the/way.sock.lock");
    let mode = || std::fs::metadata(&lock).expect("it is kept").mode() & 0o777;
    assert_eq!(mode(), 0o600, "others could hold it");
    // As an earlier version made it.
    std::fs::set_permissions(&lock, Permissions::from_mode(0o644)).expect("it is ours");
    let second = Listener::bind(&path).expect("nobody serves it any more");
    assert_eq!(mode(), 0o600, "others could hold it");
    let name = node();
    let (client, greeted) = tokio::join!(Client::connect(&path, &name), async {
        let mut connection = second.accept().await.expect("somebody connects");
        connection.handshake().await
    });
    client.expect("a welcome");
    greeted.expect("a greeting");
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    std::fs::write(&path, "precious").expect("written");
    let error = Listener::bind(&path).expect_err("it is not ours");
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert_eq!(
        std::fs::read_to_string(&path).expect("still there"),
        "precious"
    );
    let missing = Client::connect(&dir.path().join("missing"), &node()).await;
    let error: Box<dyn std::error::Error> = Box::new(missing.expect_err("nobody is there"));
    let source = error.source().and_then(|s| s.downcast_ref::<io::Error>());
    assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::NotFound));
}
