//! The reconciler against a fake svcprovider that only holds sockets.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bismuth_handover::{Answer, Attachment, Connection, HeldSocket, Listener, Request};
use bismuth_model::{FunctionId, ServiceQuotas};
use tokio::task::JoinHandle;

use super::*;

type Sockets = Arc<Mutex<BTreeMap<ContainerId, (TokenDigest, OwnedFd)>>>;

/// A svcprovider that holds sockets and does nothing with them.
struct FakeProvider {
    sockets: Sockets,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl FakeProvider {
    fn start(path: &Path, sockets: Sockets) -> Self {
        let listener = Listener::bind(path).unwrap();
        let shared = Arc::clone(&sockets);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let serving = tokio::spawn(async move {
            loop {
                let connection = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                // One at a time; the next waits in the backlog.
                serve(connection, &shared).await;
            }
        });
        Self {
            sockets,
            connections,
            serving,
        }
    }

    async fn die(self) {
        self.serving.abort();
        let _aborted = self.serving.await;
    }

    async fn holds(&self, wanted: &[(u8, u8)]) {
        let wanted = wanted.iter().map(|(n, start)| attachment(*n, *start));
        let wanted: BTreeMap<_, _> = wanted.map(|a| (a.container, a.token)).collect();
        let what = format!("the provider holds {wanted:?}");
        let holds = async || {
            let sockets = self.sockets.lock().unwrap();
            let held: BTreeMap<_, _> = sockets.iter().map(|(id, (t, _))| (*id, *t)).collect();
            let holds = held == wanted;
            holds.then_some(()).ok_or(format!("it holds {held:?}"))
        };
        bismuth_testkit::eventually(&what, Duration::from_secs(5), holds).await;
    }
}

async fn serve(mut connection: Connection, sockets: &Sockets) {
    if connection.handshake().await.is_err() {
        return;
    }
    while let Ok(received) = connection.next().await {
        let number = received.number;
        let mut back = None;
        let answer = match received.request {
            Request::List => {
                let held = |(id, (token, _)): (&ContainerId, &(TokenDigest, _))| HeldSocket {
                    container: *id,
                    token: *token,
                };
                let held: Vec<_> = sockets.lock().unwrap().iter().map(held).collect();
                connection.send_held_sockets(number, &held).await.unwrap();
                continue;
            }
            Request::Attach(attachment) => {
                let socket = (attachment.token, received.listener.unwrap());
                sockets.lock().unwrap().insert(attachment.container, socket);
                Answer::Done
            }
            Request::Detach(id) => {
                sockets.lock().unwrap().remove(&id);
                Answer::Done
            }
            Request::Duplicate(id) => {
                let sockets = sockets.lock().unwrap();
                back = sockets
                    .get(&id)
                    .map(|(_, socket)| socket.try_clone().unwrap());
                back.as_ref().map_or(Answer::Absent, |_| Answer::Listener)
            }
            other => panic!("{other:?}"),
        };
        let back = back.as_ref().map(OwnedFd::as_fd);
        if connection.answer(number, answer, back).await.is_err() {
            return;
        }
    }
}

fn attachment(n: u8, start: u8) -> Attachment {
    let function = FunctionId::from_bytes([n; 16]);
    Attachment {
        container: ContainerId::from_bytes([n; 16]),
        function,
        group: function.into(),
        quotas: ServiceQuotas::default(),
        token: TokenDigest([start; 32]),
    }
}

fn socket() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

fn run(service_sockets: &ServiceSockets, path: &Path, shutdown: &Shutdown) -> JoinHandle<()> {
    let config = SocketReconcilerConfig {
        socket: path.to_owned(),
        node: NodeName::new("127.0.0.1").unwrap(),
        provider: None,
    };
    let reconciler = SocketReconciler::new(service_sockets.clone(), config);
    tokio::spawn(reconciler.run(shutdown.clone()))
}

#[tokio::test]
async fn sockets_are_attached_replaced_and_detached_as_containers_start_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (service_sockets, shutdown) = (ServiceSockets::default(), Shutdown::new());
    service_sockets.add(attachment(1, 1), socket().0);
    // It is away at first.
    let reconciler = run(&service_sockets, &path, &shutdown);
    let provider = FakeProvider::start(&path, Sockets::default());
    provider.holds(&[(1, 1)]).await;
    service_sockets.add(attachment(2, 1), socket().0);
    provider.holds(&[(1, 1), (2, 1)]).await;
    service_sockets.add(attachment(1, 2), socket().0);
    provider.holds(&[(1, 2), (2, 1)]).await;
    service_sockets.remove(attachment(2, 1).container);
    service_sockets.remove(attachment(3, 1).container);
    provider.holds(&[(1, 2)]).await;
    let connections = provider.connections.load(Ordering::SeqCst);
    assert_eq!(connections, 1, "one connection was enough for all of it");
    shutdown.trigger();
    reconciler.await.unwrap();
    provider.holds(&[(1, 2)]).await;
}

#[tokio::test]
async fn a_restarted_svcprovider_is_given_every_socket_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (service_sockets, shutdown) = (ServiceSockets::default(), Shutdown::new());
    for n in 1..=100 {
        service_sockets.add(attachment(n, 1), socket().0);
    }
    let all: Vec<_> = (1..=100).map(|n| (n, 1)).collect();
    let _reconciler = run(&service_sockets, &path, &shutdown);
    let first = FakeProvider::start(&path, Sockets::default());
    first.holds(&all).await;
    first.die().await;
    let restarted = Instant::now();
    let second = FakeProvider::start(&path, Sockets::default());
    second.holds(&all).await;
    let took = restarted.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn after_a_restart_the_sockets_of_recovered_containers_are_taken_back_and_others_detached() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let sockets = Sockets::default();
    let (recovered, address) = socket();
    let (removed, _) = socket();
    for (n, socket) in [(1, recovered), (2, removed)] {
        let attachment = attachment(n, 1);
        let mut sockets = sockets.lock().unwrap();
        sockets.insert(attachment.container, (attachment.token, socket));
    }
    let provider = FakeProvider::start(&path, sockets);
    let (service_sockets, shutdown) = (ServiceSockets::default(), Shutdown::new());
    service_sockets.recover(attachment(1, 1), dir.path().to_owned());
    let _reconciler = run(&service_sockets, &path, &shutdown);
    provider.holds(&[(1, 1)]).await;
    let id = attachment(1, 1).container;
    let back = async || match service_sockets.get(id).unwrap().state {
        SocketState::Held(socket) => Ok(socket.try_clone().unwrap()),
        SocketState::Lost(_) => Err("it was not taken back"),
    };
    let soon = Duration::from_secs(5);
    let back = bismuth_testkit::eventually("the socket is here again", soon, back).await;
    assert_eq!(TcpListener::from(back).local_addr().unwrap(), address);
}
