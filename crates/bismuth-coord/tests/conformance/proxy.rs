//! A TCP proxy between a tree and its server, which can cut, freeze, hold back, and lose one answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bismuth_coord::Servers;
use bismuth_coord::memory::LostAnswer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::frames::Frames;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections are closed, new ones at once.
    Cut,
    /// Connections stay and forward nothing.
    Frozen,
    /// Requests pass, answers wait.
    Held,
}

pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    fault: Fault,
    traffic: watch::Sender<Traffic>,
    acceptor: JoinHandle<()>,
}

/// What went through, over all connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub requests: usize,
    pub answers: usize,
    /// The most requests at one time that had no answer yet.
    pub most_under_way: usize,
}

impl Traffic {
    fn add(&mut self, requests: usize, answers: usize) {
        self.requests += requests;
        self.answers += answers;
        self.most_under_way = self.most_under_way.max(self.requests - self.answers);
    }
}

/// The answer to be lost, for whichever connection carries the next request.
type Fault = Arc<Mutex<Option<LostAnswer>>>;

impl Proxy {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Open);
        let fault = Fault::default();
        let traffic = watch::Sender::new(Traffic::default());
        let link = Link {
            server,
            mode: mode.clone(),
            fault: fault.clone(),
            traffic: traffic.clone(),
        };
        let acceptor = tokio::spawn(accept(listener, link));
        Self {
            address,
            mode,
            fault,
            traffic,
            acceptor,
        }
    }

    pub fn servers(&self) -> Servers {
        self.address.to_string().parse().unwrap()
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

    pub fn hold_answers(&self) {
        self.mode.send_replace(Mode::Held);
    }

    pub fn traffic(&self) -> watch::Receiver<Traffic> {
        self.traffic.subscribe()
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

/// What every connection needs.
#[derive(Clone)]
struct Link {
    server: SocketAddr,
    mode: watch::Sender<Mode>,
    fault: Fault,
    traffic: watch::Sender<Traffic>,
}

async fn accept(listener: TcpListener, link: Link) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let forward = forward(client, link.clone());
        // A connection that breaks is what the tests are about.
        tokio::spawn(async move { forward.await.ok() });
    }
}

async fn forward(mut client: TcpStream, link: Link) -> std::io::Result<()> {
    let mut mode = link.mode.subscribe();
    if *mode.borrow_and_update() == Mode::Cut {
        return Ok(());
    }
    let mut server = TcpStream::connect(link.server).await?;
    let (mut up, mut down) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let (mut up_frames, mut down_frames) = (Frames::default(), Frames::default());
    let mut swallow = false;
    loop {
        let now = *mode.borrow_and_update();
        if now == Mode::Cut {
            return Ok(());
        }
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return Ok(()) },
            read = client.read(&mut up), if now != Mode::Frozen => {
                let piece = &up[..read?];
                if piece.is_empty() {
                    return Ok(());
                }
                let requests = up_frames.requests_in(piece);
                link.traffic.send_modify(|traffic| traffic.add(requests, 0));
                if requests > 0 {
                    match link.fault.lock().unwrap().take() {
                        Some(LostAnswer::BeforeChange) => return Ok(()),
                        Some(LostAnswer::AfterChange) => swallow = true,
                        None => {}
                    }
                }
                server.write_all(piece).await?;
            }
            read = server.read(&mut down), if now == Mode::Open => {
                let piece = &down[..read?];
                let answers = down_frames.requests_in(piece);
                link.traffic.send_modify(|traffic| traffic.add(0, answers));
                // The answer proves that the change was made.
                if piece.is_empty() || (swallow && answers > 0) {
                    return Ok(());
                }
                client.write_all(piece).await?;
            }
        }
    }
}
