//! The part of ZooKeeper's wire protocol that ends the session of another client.
//!
//! Ending somebody else's session needs the session's password, which the server does not tell. But it does
//! not store it either: `ZooKeeperServer.generatePasswd` derives it from the session id with `java.util.Random`,
//! so it can be computed here. A connection that presents both *is* the session, and may close it.
//!
//! Records are jute: big-endian integers, buffers behind a four-byte length, each packet behind its own length.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// `ZooKeeperServer.superSecret` of ZooKeeper 3.4 to 3.9.
const SUPER_SECRET: i64 = 0xB341_5C00;
const PASSWORD_LENGTH: usize = 16;
/// `ZooDefs.OpCode.closeSession`.
const CLOSE_SESSION: i32 = -11;
/// The server bounds what a client asks for by 2 and 20 ticks.
const SESSION_TIMEOUT_MS: i32 = 40_000;
/// A server that runs answers in milliseconds; a paused one never does.
const ANSWER_BOUND: Duration = Duration::from_secs(10);

/// Sends an administrative word (`srvr`, `dump`, …) and returns the whole answer.
pub(super) async fn four_letter_word(address: SocketAddr, word: &str) -> Result<String> {
    bounded(address, async {
        let mut stream = connect(address).await?;
        stream
            .write_all(word.as_bytes())
            .await
            .context("send the word")?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .context("read the answer")?;
        Ok(answer)
    })
    .await
    .with_context(|| format!("ask {address} for {word:?}"))
}

/// The session ids in the answer to `dump`.
///
/// ```text
/// Session Sets (4)/(1):
/// 0 expire at …
/// 1 expire at …:
///         0x1000123abcd0000
/// ephemeral nodes dump:
/// ```
pub(super) fn session_ids(dump: &str) -> Vec<i64> {
    let lines = dump
        .lines()
        .take_while(|line| !line.starts_with("ephemeral nodes dump"));
    let words = lines.filter_map(|line| line.trim().strip_prefix("0x"));
    let ids = words.filter_map(|hex| u64::from_str_radix(hex, 16).ok());
    let mut ids: Vec<i64> = ids.map(|id| i64::from_ne_bytes(id.to_ne_bytes())).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Opens a session of our own; it lives until it is closed or has been silent for its timeout.
#[cfg(test)]
pub(super) async fn open_session(address: SocketAddr) -> Result<(i64, TcpStream)> {
    bounded(address, handshake(address, 0, [0; PASSWORD_LENGTH])).await
}

/// Takes the session over and closes it.
pub(super) async fn close_session(address: SocketAddr, session: i64) -> Result<()> {
    let close = bounded(address, async {
        let (_, mut stream) = handshake(address, session, password(session)).await?;
        let mut request = Vec::new();
        request.extend_from_slice(&1_i32.to_be_bytes());
        request.extend_from_slice(&CLOSE_SESSION.to_be_bytes());
        send(&mut stream, &request).await?;
        receive(&mut stream).await.map(drop)
    });
    close
        .await
        .with_context(|| format!("expire session {session:#x} at {address}"))
}

async fn bounded<T>(address: SocketAddr, act: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ANSWER_BOUND, act)
        .await
        .with_context(|| format!("{address} is silent"))?
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))
}

/// `ConnectRequest`, `ConnectResponse`: a session id of zero asks for a new session.
async fn handshake(
    address: SocketAddr,
    session: i64,
    password: [u8; PASSWORD_LENGTH],
) -> Result<(i64, TcpStream)> {
    let mut stream = connect(address).await?;
    let mut request = Vec::new();
    request.extend_from_slice(&0_i32.to_be_bytes()); // protocol version
    request.extend_from_slice(&0_i64.to_be_bytes()); // last transaction seen
    request.extend_from_slice(&SESSION_TIMEOUT_MS.to_be_bytes());
    request.extend_from_slice(&session.to_be_bytes());
    request.extend_from_slice(&16_i32.to_be_bytes());
    request.extend_from_slice(&password);
    request.push(0); // not read-only
    send(&mut stream, &request).await?;

    // Protocol version (4), granted timeout (4), session id (8), password.
    let answer = receive(&mut stream).await?;
    let granted = answer
        .get(4..8)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_be_bytes);
    let id = answer
        .get(8..16)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i64::from_be_bytes);
    match (granted, id) {
        // A timeout of zero is how the server says that the session is not, or no longer, known.
        (Some(granted), Some(id)) if granted > 0 => Ok((id, stream)),
        (Some(_), Some(_)) => bail!("the server does not know session {session:#x}"),
        _ => bail!("an answer of {} bytes is no ConnectResponse", answer.len()),
    }
}

async fn send(stream: &mut TcpStream, packet: &[u8]) -> Result<()> {
    let length = u32::try_from(packet.len())?.to_be_bytes();
    stream
        .write_all(&[&length, packet].concat())
        .await
        .context("send a packet")
}

async fn receive(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let length = stream.read_u32().await.context("read a packet's length")?;
    ensure!(length < 1 << 20, "a packet of {length} bytes");
    let mut packet = vec![0; length as usize];
    stream
        .read_exact(&mut packet)
        .await
        .context("read a packet")?;
    Ok(packet)
}

fn password(session: i64) -> [u8; PASSWORD_LENGTH] {
    let mut random = JavaUtilRandom::new(session ^ SUPER_SECRET);
    let mut password = [0; PASSWORD_LENGTH];
    for chunk in password.chunks_exact_mut(4) {
        chunk.copy_from_slice(&random.next_int().to_le_bytes());
    }
    password
}

/// `java.util.Random`: the linear congruential generator that its documentation specifies.
struct JavaUtilRandom(u64);

impl JavaUtilRandom {
    const MULTIPLIER: u64 = 0x5_DEEC_E66D;
    const MASK: u64 = (1 << 48) - 1;

    fn new(seed: i64) -> Self {
        Self((u64::from_ne_bytes(seed.to_ne_bytes()) ^ Self::MULTIPLIER) & Self::MASK)
    }

    /// The upper 32 of the 48 bits; `nextBytes` hands them out lowest byte first.
    fn next_int(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(Self::MULTIPLIER).wrapping_add(0xB) & Self::MASK;
        (self.0 >> 16) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_are_read_from_a_dump_and_not_from_its_ephemerals() {
        let dump = "SessionTracker dump:\nSession Sets (2)/(1):\n0 expire at Mon:\n1 expire at Tue:\n\t0x100a\n\
                    ephemeral nodes dump:\nSessions with Ephemerals (1):\n0xffff:\n\t/x\n";
        assert_eq!(session_ids(dump), vec![0x100a]);
    }

    #[test]
    fn random_follows_javas_specification() {
        // new java.util.Random(42).nextInt() is -1170105035.
        assert_eq!(
            JavaUtilRandom::new(42).next_int(),
            (-1_170_105_035_i32) as u32
        );
    }
}
