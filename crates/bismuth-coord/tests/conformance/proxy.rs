//! A TCP proxy between a tree and its server, which can cut, freeze, and lose one answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bismuth_coord::memory::LostAnswer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections are closed, new ones at once.
    Cut,
    /// Connections stay and carry nothing.
    Frozen,
}

pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    fault: Fault,
    acceptor: JoinHandle<()>,
}

/// The answer to be lost, for whichever connection carries the next request.
type Fault = Arc<Mutex<Option<LostAnswer>>>;

impl Proxy {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Open);
        let fault = Fault::default();
        let acceptor = tokio::spawn(accept(listener, server, mode.clone(), fault.clone()));
        Self {
            address,
            mode,
            fault,
            acceptor,
        }
    }

    pub fn servers(&self) -> String {
        self.address.to_string()
    }

    pub fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }

    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    pub fn freeze(&self) {
        self.mode.send_replace(Mode::Frozen);
    }

    pub fn lose_next_answer(&self, how: LostAnswer) {
        *self.fault.lock().unwrap() = Some(how);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.acceptor.abort();
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    mode: watch::Sender<Mode>,
    fault: Fault,
) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let carry = carry(client, server, mode.subscribe(), fault.clone());
        // A connection that breaks is what the tests are about.
        tokio::spawn(async move { carry.await.ok() });
    }
}

async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    fault: Fault,
) -> std::io::Result<()> {
    if *mode.borrow_and_update() == Mode::Cut {
        return Ok(());
    }
    let mut server = TcpStream::connect(server).await?;
    let (mut up, mut down) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut swallow = false;
    loop {
        let now = *mode.borrow_and_update();
        if now == Mode::Cut {
            return Ok(());
        }
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return Ok(()) },
            read = client.read(&mut up), if now == Mode::Open => {
                let request = &up[..read?];
                if request.is_empty() {
                    return Ok(());
                }
                if is_request(request) {
                    match fault.lock().unwrap().take() {
                        Some(LostAnswer::BeforeChange) => return Ok(()),
                        Some(LostAnswer::AfterChange) => swallow = true,
                        None => {}
                    }
                }
                server.write_all(request).await?;
            }
            read = server.read(&mut down), if now == Mode::Open => {
                let answer = &down[..read?];
                // The answer proves that the change was made.
                if answer.is_empty() || (swallow && is_request(answer)) {
                    return Ok(());
                }
                client.write_all(answer).await?;
            }
        }
    }
}

/// Whether the packet is (the answer to) a request and not a ping (-2) or an event (-1): its second word says.
fn is_request(packet: &[u8]) -> bool {
    packet
        .get(4..8)
        .is_some_and(|xid| i32::from_be_bytes(xid.try_into().unwrap()) >= 0)
}
