//! The table of listening sockets that are held, by node and container.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bismuth_daemon::Shutdown;
use bismuth_handover::{Attachment, HeldSocket, NodeName, TokenDigest};
use bismuth_model::ContainerId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::net::sockopt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::serve::{NewSocket, Worker};
use crate::http::Caller;
use crate::http::rate::Buckets;

/// The sockets of all nodes.
#[derive(Debug, Default)]
pub(super) struct SocketTable {
    table: Mutex<BTreeMap<(NodeName, ContainerId), ContainerSocket>>,
    buckets: Buckets,
    workers: Vec<Worker>,
    stop: CancellationToken,
    count: Arc<AtomicUsize>,
}

/// Tells how many containers are attached; clones are the same.
#[derive(Clone, Debug)]
pub struct SocketCount(Arc<AtomicUsize>);

impl SocketCount {
    /// How many there are now.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Collector for SocketCount {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let count = ConstGauge::new(i64::try_from(self.count()).unwrap_or(i64::MAX));
        let metric = encoder.encode_descriptor(
            "containers",
            "Containers whose sockets are held",
            None,
            count.metric_type(),
        )?;
        count.encode(metric)
    }
}

/// One container's socket. Dropping it stops it.
#[derive(Debug)]
struct ContainerSocket {
    token: TokenDigest,
    listener: Arc<TcpListener>,
    stop: CancellationToken,
    count: Arc<AtomicUsize>,
}

impl Drop for ContainerSocket {
    fn drop(&mut self) {
        self.stop.cancel();
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SocketTable {
    pub(super) fn socket_count(&self) -> SocketCount {
        SocketCount(Arc::clone(&self.count))
    }

    /// Whom sockets go to. Their serving stops with the shutdown.
    pub(super) fn serve_with(&mut self, workers: Vec<Worker>, shutdown: &Shutdown) {
        self.workers = workers;
        self.stop = shutdown.token();
    }

    /// Takes a socket and has it served. What was held for the container is let go of.
    ///
    /// # Errors
    /// When it does not listen, or one more cannot be watched.
    pub(super) fn attach(
        &self,
        node: &NodeName,
        attachment: Attachment,
        socket: OwnedFd,
    ) -> io::Result<()> {
        if !sockopt::socket_acceptconn(&socket)? {
            return Err(io::Error::other("the socket does not listen"));
        }
        let listener = StdListener::from(socket);
        listener.set_nonblocking(true)?;
        let worker = self.workers.iter().min_by_key(|worker| worker.sockets());
        let worker = worker.ok_or_else(|| io::Error::other("no worker thread runs"))?;
        // With the runtime of the thread that will accept.
        let listener = Arc::new(worker.register(listener)?);
        let key = (node.clone(), attachment.container);
        let stop = self.stop.child_token();
        let socket = ContainerSocket {
            token: attachment.token,
            listener: Arc::clone(&listener),
            stop: stop.clone(),
            count: Arc::clone(&self.count),
        };
        self.count.fetch_add(1, Ordering::Relaxed);
        let bucket = self.buckets.of(&attachment.group);
        let caller = Caller::new(attachment, bucket);
        // The earlier one stops before the new one starts.
        drop(self.table().insert(key, socket));
        worker.send(NewSocket {
            listener,
            caller,
            stop,
        })
    }

    /// Lets go of a socket, if it is held.
    pub(super) fn detach(&self, node: &NodeName, container: ContainerId) {
        let socket = self.table().remove(&(node.clone(), container));
        drop(socket);
    }

    /// Another descriptor of a socket that is held.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(super) fn duplicate(
        &self,
        node: &NodeName,
        container: ContainerId,
    ) -> io::Result<Option<OwnedFd>> {
        let table = self.table();
        let socket = table.get(&(node.clone(), container));
        socket
            .map(|socket| socket.listener.as_fd().try_clone_to_owned())
            .transpose()
    }

    /// What is held for a node.
    pub(super) fn held_sockets(&self, node: &NodeName) -> Vec<HeldSocket> {
        let first = (node.clone(), ContainerId::from_bytes([0; 16]));
        let table = self.table();
        let ours = table.range(first..).take_while(|((of, _), _)| of == node);
        ours.map(|((_, container), socket)| HeldSocket {
            container: *container,
            token: socket.token,
        })
        .collect()
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<(NodeName, ContainerId), ContainerSocket>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
