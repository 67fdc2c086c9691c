//! Client and server over real sockets.

use std::fs::Permissions;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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

/// Answers the next request, and returns it with its socket.
async fn answer(
    server: &mut Connection,
    answer: Answer,
    descriptor: Option<BorrowedFd<'_>>,
) -> (Request, Option<OwnedFd>) {
    let received = server.next().await.expect("a request");
    let sent = server.answer(received.number, answer, descriptor).await;
    sent.expect("it is read");
    (received.request, received.listener)
}

#[tokio::test]
async fn a_socket_goes_over_and_comes_back_as_the_same_socket() {
    let (mut client, mut server) = connected().await;
    let ours = listener();
    let address = ours.local_addr().expect("bound");
    let serve = async {
        let (request, listener) = answer(&mut server, Answer::Done, None).await;
        assert_eq!(request, Request::Attach(attachment(1)));
        let theirs = listener.expect("it came along");
        let descriptor = Some(theirs.as_fd());
        let (request, _) = answer(&mut server, Answer::Listener, descriptor).await;
        assert_eq!(request, Request::Duplicate(attachment(1).container));
    };
    let ask = async {
        let attached = client.attach(attachment(1), ours.as_fd()).await;
        attached.expect("it is done");
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
            let sent = server.send_held_sockets(received.number, held).await;
            sent.expect("it is read");
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
        let descriptor = Some(late.as_fd());
        let sent = server.answer(received.number, Answer::Listener, descriptor);
        sent.await.expect("it is read");
    }
    let serve = answer(&mut server, Answer::Done, None);
    let (_, detached) = tokio::join!(serve, client.detach(container));
    detached.expect("it is done");
}

#[tokio::test]
async fn a_refusal_keeps_the_connection_open() {
    let (mut client, mut server) = connected().await;
    let container = attachment(1).container;
    let reason = "no room".to_owned();
    let serve = answer(&mut server, Answer::Refused { reason }, None);
    let (_, refused) = tokio::join!(serve, client.detach(container));
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
    let closed = matches!(ended, CallError::Transport(TransportError::Closed));
    assert!(closed, "{ended}");
}

#[tokio::test]
async fn a_secret_goes_over_the_wire() {
    let (mut client, mut server) = connected().await;
    let group = attachment(1).group;
    let serve = async {
        let value = SecretValue::new(vec![9; 60_000]).expect("it is short enough");
        answer(&mut server, Answer::Secret(value), None).await;
        answer(&mut server, Answer::Absent, None).await;
    };
    let ask = async {
        let value = client.secret(&group, "key").await.expect("an answer");
        assert_eq!(value.expect("there is one").expose(), vec![9; 60_000]);
        let other = client.secret(&group, "other").await;
        assert_eq!(other.expect("an answer"), None);
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
    let content = std::fs::read_to_string(&path).expect("still there");
    assert_eq!(content, "precious");
    let missing = Client::connect(&dir.path().join("missing"), &node()).await;
    let error: Box<dyn std::error::Error> = Box::new(missing.expect_err("nobody is there"));
    let source = error.source().and_then(|s| s.downcast_ref::<io::Error>());
    assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::NotFound));
}
