//! The gRPC client of containerd: channels, namespace, leases, deadlines.
//!
//! ```text
//!   Containerd ──┬── control channel ──► containers, tasks, events, leases, snapshots   (small messages, latency)
//!                └── bulk channel ─────► content, diff                                  (layers; may stall for seconds)
//!        every call: containerd-namespace [+ containerd-lease] metadata, a deadline of its class
//! ```
//!
//! Both channels connect when first used and again when they broke: a containerd that restarts costs the calls that
//! were in flight, nothing more. They are apart so that a pull which fills its HTTP/2 connection window cannot hold up
//! the start of a container.
//!
//! No HTTP/2 keep-alive: on a Unix socket the kernel tells us at once when the peer dies, and grpc-go answers pings that
//! come more often than every five minutes by closing the connection ("too_many_pings"). A peer that hangs is what the
//! deadlines are for.

mod peer;

pub use peer::ServerProcess;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{CreateNamespaceRequest, Namespace};
use tokio::sync::OnceCell;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::error::{Error, Result, unless_exists};

/// Header that selects containerd's namespace (containerd `pkg/namespaces/grpc.go`, `GRPCHeader`).
const NAMESPACE_HEADER: &str = "containerd-namespace";
/// Header that puts what a call creates under a lease (containerd `leases/grpc.go`, `GRPCHeader`).
const LEASE_HEADER: &str = "containerd-lease";
/// `sockaddr_un.sun_path` is 108 bytes with the final NUL (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// containerd refuses longer identifiers (`identifiers/validate.go`, `maxLength`).
const MAX_NAMESPACE: usize = 76;
/// The largest message containerd sends (`defaults/defaults.go`, `DefaultMaxSendMsgSize`); tonic would stop at 4 MiB, which
/// a node with some thousands of tasks passes.
pub const MAX_MESSAGE: usize = 16 << 20;

/// How long a call of each class may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Reads and writes of containerd's database, signals: normally about a millisecond.
    pub quick: Duration,
    /// What starts a shim, runc or a process, or waits for one: normally under 100 ms.
    pub create: Duration,
    /// What moves or unpacks a layer: bounded by disk and network, as long as the layer is large.
    pub pull: Duration,
}

impl Default for Deadlines {
    /// Thousands of times the normal duration, so that a deadline means "hangs", not "busy".
    fn default() -> Self {
        Self {
            quick: Duration::from_secs(5),
            create: Duration::from_secs(20),
            pull: Duration::from_secs(600),
        }
    }
}

/// Which of the [`Deadlines`] bounds a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallClass {
    /// [`Deadlines::quick`].
    Quick,
    /// [`Deadlines::create`].
    Create,
    /// [`Deadlines::pull`].
    Pull,
}

impl Deadlines {
    /// The deadline of a class.
    pub fn of(&self, class: CallClass) -> Duration {
        match class {
            CallClass::Quick => self.quick,
            CallClass::Create => self.create,
            CallClass::Pull => self.pull,
        }
    }
}

/// A channel that carries the namespace, and the lease if there is one, on every call: what the generated clients take.
pub type NamespacedChannel = InterceptedService<Channel, CallMetadata>;

/// The metadata that every call carries.
#[derive(Debug, Clone)]
pub struct CallMetadata {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for CallMetadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(NAMESPACE_HEADER, self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert(LEASE_HEADER, lease.clone());
        }
        Ok(request)
    }
}

/// A handle on one containerd and one namespace in it. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Containerd {
    shared: Arc<Shared>,
    metadata: CallMetadata,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    namespace: String,
    deadlines: Deadlines,
    control: Channel,
    bulk: Channel,
    namespace_exists: OnceCell<()>,
}

/// What containerd says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// For instance `1.6.20~ds1` or `v2.1.3`.
    pub version: String,
    /// The commit it was built from.
    pub revision: String,
}

impl Containerd {
    /// Prepares the connection; nothing is sent before the first call, so containerd need not be up. Must be called
    /// within a tokio runtime, which then drives the connections.
    ///
    /// # Errors
    /// The socket path is too long or not UTF-8, or the namespace is one that containerd would refuse.
    pub fn connect(socket: &Path, namespace: &str, deadlines: Deadlines) -> Result<Self> {
        validate_namespace(namespace)?;
        let endpoint = endpoint(socket)?;
        let metadata = CallMetadata {
            namespace: metadata("containerd namespace", namespace)?,
            lease: None,
        };
        let shared = Shared {
            socket: socket.to_owned(),
            namespace: namespace.to_owned(),
            deadlines,
            control: endpoint.connect_lazy(),
            bulk: endpoint.connect_lazy(),
            namespace_exists: OnceCell::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            metadata,
        })
    }

    /// The same connections, with everything created through them put under `lease`.
    ///
    /// # Errors
    /// The lease's id cannot be sent as metadata.
    pub fn with_lease(&self, lease: &str) -> Result<Self> {
        let mut leased = self.clone();
        leased.metadata.lease = Some(metadata("lease", lease)?);
        Ok(leased)
    }

    /// The socket that was given to [`Containerd::connect`].
    pub fn socket(&self) -> &Path {
        &self.shared.socket
    }

    /// The containerd namespace of all calls.
    pub fn namespace(&self) -> &str {
        &self.shared.namespace
    }

    /// The deadlines of all calls.
    pub fn deadlines(&self) -> Deadlines {
        self.shared.deadlines
    }

    /// The channel for small, latency-bound calls.
    pub fn channel(&self) -> NamespacedChannel {
        InterceptedService::new(self.shared.control.clone(), self.metadata.clone())
    }

    /// The channel for calls that move layers.
    pub fn bulk_channel(&self) -> NamespacedChannel {
        InterceptedService::new(self.shared.bulk.clone(), self.metadata.clone())
    }

    /// Runs one unary call (or the opening of a stream) under the deadline of its class, and names its failure. Dropping
    /// the returned future cancels the call at containerd too.
    ///
    /// # Errors
    /// See [`Error`]; a passed deadline is [`Error::DeadlineExceeded`].
    pub async fn call<T>(
        &self,
        class: CallClass,
        act: &'static str,
        object: &str,
        rpc: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        // Boxed here and below, or each layer of futures would hold it once more.
        let answer = Box::pin(async { rpc.await.map(Response::into_inner) });
        self.exchange(class, act, object, answer).await
    }

    /// As [`call`](Self::call), for more than one message.
    pub(crate) async fn exchange<T>(
        &self,
        class: CallClass,
        act: &'static str,
        object: &str,
        messages: impl Future<Output = Result<T, Status>>,
    ) -> Result<T> {
        let answered = self.in_time(class, act, object, Box::pin(messages));
        answered
            .await?
            .map_err(|status| Error::from_status(act, object, status))
    }

    /// Runs what may end in any way under the deadline of a class.
    pub(crate) async fn in_time<T>(
        &self,
        class: CallClass,
        act: &'static str,
        object: &str,
        work: impl Future<Output = T>,
    ) -> Result<T> {
        let after = self.shared.deadlines.of(class);
        let late = |_| Error::DeadlineExceeded {
            act,
            object: object.to_owned(),
            after,
        };
        tokio::time::timeout(after, work).await.map_err(late)
    }

    /// Asks containerd for its version: the cheapest proof that it answers.
    ///
    /// # Errors
    /// containerd is down or hangs.
    pub async fn version(&self) -> Result<Version> {
        let mut client = VersionClient::new(self.channel());
        let answer = self
            .call(
                CallClass::Quick,
                "ask version of",
                "containerd",
                client.version(()),
            )
            .await?;
        Ok(Version {
            version: answer.version,
            revision: answer.revision,
        })
    }

    /// Makes sure that the namespace exists. One call in the life of this handle and its clones; containerd makes the
    /// namespace again by itself, should its database be lost meanwhile.
    ///
    /// # Errors
    /// containerd is down, hangs, or refuses the name.
    pub async fn ensure_namespace(&self) -> Result<()> {
        let create = || self.create_namespace();
        self.shared
            .namespace_exists
            .get_or_try_init(create)
            .await
            .copied()
    }

    async fn create_namespace(&self) -> Result<()> {
        let mut client = NamespacesClient::new(self.channel());
        let request = CreateNamespaceRequest {
            namespace: Some(Namespace {
                name: self.shared.namespace.clone(),
                ..Namespace::default()
            }),
        };
        let name = &self.shared.namespace;
        let created = self.call(
            CallClass::Quick,
            "create containerd namespace",
            name,
            client.create(request),
        );
        if unless_exists(created.await)?.is_some() {
            tracing::info!(namespace = %name, "created the containerd namespace");
        }
        Ok(())
    }
}

fn endpoint(socket: &Path) -> Result<Endpoint> {
    let invalid = |reason| Error::InvalidSocket {
        path: socket.to_owned(),
        reason,
    };
    let text = socket.to_str().ok_or_else(|| invalid("not valid UTF-8"))?;
    if !socket.is_absolute() {
        return Err(invalid("not an absolute path"));
    }
    if text.len() > MAX_SOCKET_PATH {
        return Err(invalid(
            "longer than the 107 bytes a Unix socket address can hold",
        ));
    }
    Endpoint::from_shared(format!("unix://{text}"))
        .map_err(|_| invalid("not usable as a gRPC endpoint"))
}

fn metadata(what: &'static str, value: &str) -> Result<MetadataValue<Ascii>> {
    value.parse().map_err(|_| Error::InvalidName {
        what,
        value: value.to_owned(),
        reason: "not visible ASCII",
    })
}

/// containerd's rule (`identifiers/validate.go`): letters and digits, joined by single `.`, `_` or `-`.
fn validate_namespace(name: &str) -> Result<()> {
    let invalid = |reason| {
        Err(Error::InvalidName {
            what: "containerd namespace",
            value: name.to_owned(),
            reason,
        })
    };
    if name.len() > MAX_NAMESPACE {
        return invalid("longer than 76 characters");
    }
    let words = name.split(['.', '_', '-']);
    if !words
        .into_iter()
        .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric()))
    {
        return invalid("must be letters and digits joined by single dots, dashes or underscores");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connecting_needs_no_containerd() {
        let socket = Path::new("/nonexistent/containerd.sock");
        let containerd =
            Containerd::connect(socket, "bismuth", Deadlines::default()).expect("lazy");
        let error = containerd
            .version()
            .await
            .expect_err("nobody listens there");
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert!(
            error.to_string().starts_with("ask version of containerd: "),
            "{error}"
        );
    }

    #[tokio::test]
    async fn unusable_sockets_and_namespaces_are_refused_by_name() {
        let connect = |socket: &str, namespace: &str| {
            let refused = Containerd::connect(Path::new(socket), namespace, Deadlines::default());
            refused.expect_err("must be refused").to_string()
        };
        assert!(connect(&format!("/{}", "x".repeat(120)), "a").contains("107 bytes"));
        assert!(connect("run/containerd.sock", "a").contains("absolute"));
        for namespace in ["", "a b", "a/b", "-a", "a--b", &"x".repeat(77)] {
            assert!(
                connect("/x", namespace).contains("containerd namespace"),
                "{namespace:?}"
            );
        }
    }
}
