//! Listening sockets, and errors that name the address.
//!
//! ```text
//!   bind            one listener; refused when anybody listens there
//!   bind_per_core   refused when anybody listens there, then n listeners that share the address
//! ```
//!
//! With `SO_REUSEPORT` the kernel spreads connections over the listeners, which is what one
//! runtime per core wants. It also lets a second process of the same user join in silently and
//! take half of the connections; hence [`bind_per_core`] first binds without it.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// How many connections wait to be accepted. The kernel cuts it to `net.core.somaxconn`, which
/// has been 4096 since Linux 5.4; a shorter queue drops connections in bursts.
pub(crate) const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another listener has it.
    #[error("bind {address}: the address is in use by another process")]
    InUse {
        /// What was asked for.
        address: SocketAddr,
    },
    /// No interface of this machine has it.
    #[error("bind {address}: this machine does not have the address")]
    NotLocal {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Ports below 1024 are for root, unless configured otherwise.
    #[error("bind {address}: permission denied")]
    NotPermitted {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("bind {address}")]
    Other {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::AddrInUse => Self::InUse { address },
            ErrorKind::AddrNotAvailable => Self::NotLocal { address },
            ErrorKind::PermissionDenied => Self::NotPermitted { address },
            _ => Self::Other { address, source },
        }
    }
}

/// A listener nobody shares. Call it inside the runtime that will accept on it.
///
/// # Errors
/// Names the address, and whether it is in use.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    open(address, false)
        .and_then(TcpListener::from_std)
        .map_err(|source| BindError::new(address, source))
}

/// `count` listeners that share one address; port 0 becomes one port for all of them. Needs no
/// runtime, so `main` can bind before it starts the threads.
///
/// # Errors
/// Names the address, and whether it is in use, also by one that would share it.
pub fn bind_per_core(address: SocketAddr, count: usize) -> Result<Vec<CoreListener>, BindError> {
    let fail = |source| BindError::new(address, source);
    // Closed again at once: a listener that shares cannot join one that does not.
    let alone = open(address, false).map_err(fail)?;
    let address = alone.local_addr().map_err(fail)?;
    drop(alone);
    (0..count)
        .map(|_| open(address, true).map(CoreListener).map_err(fail))
        .collect()
}

/// A bound listener on its way to the thread that will accept on it.
#[derive(Debug)]
pub struct CoreListener(std::net::TcpListener);

impl CoreListener {
    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel says; none is known for a bound socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Registers it with the runtime this is called in.
    ///
    /// # Errors
    /// When the runtime cannot watch one more descriptor.
    pub fn into_tokio(self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.0)
    }
}

fn open(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    // Without it a restart would wait for the connections of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1)),
        0,
    );

    #[tokio::test]
    async fn listeners_of_all_cores_share_one_port_and_each_connection_is_accepted_once() {
        let listeners = bind_per_core(ANY, 3).expect("loopback is there");
        let address = listeners[0].local_addr().expect("bound");
        let (sender, mut accepted) = tokio::sync::mpsc::channel(64);
        for listener in listeners {
            assert_eq!(listener.local_addr().expect("bound"), address);
            let listener = listener.into_tokio().expect("in a runtime");
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    if sender.send(stream).await.is_err() {
                        return;
                    }
                }
            });
        }
        for _ in 0..32 {
            TcpStream::connect(address).await.expect("somebody listens");
            accepted.recv().await.expect("somebody accepts");
        }
        assert!(accepted.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_second_process_cannot_join_the_listeners_silently() {
        let first = bind_per_core(ANY, 2).expect("loopback is there");
        let address = first[0].local_addr().expect("bound");
        for error in [
            bind_per_core(address, 2).map(|_| ()),
            bind(address).map(|_| ()),
        ] {
            let error = error.expect_err("somebody listens there");
            assert_eq!(
                error.to_string(),
                format!("bind {address}: the address is in use by another process")
            );
        }
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_named() {
        let address: SocketAddr = "192.0.2.1:80".parse().expect("an address");
        let error = bind(address).expect_err("192.0.2.0/24 is for documentation");
        assert!(matches!(error, BindError::NotLocal { .. }), "{error}");
    }
}
