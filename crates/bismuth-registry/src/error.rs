//! Errors of the registry, in terms of functions, nodes, routes and containers.

use std::net::Ipv4Addr;

use bismuth_model::{ContainerId, FunctionId, Hostname};

use crate::codec;

/// The result of a registry operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the registry did not do what was asked.
///
/// Unless it says otherwise, nothing was changed: every change is one transaction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The environment has not been made.
    #[error("{root} does not exist in ZooKeeper: the environment is not bootstrapped")]
    NotBootstrapped {
        /// The node that is missing.
        root: String,
    },
    /// No such function.
    #[error("function {id} does not exist")]
    FunctionUnknown {
        /// Which.
        id: FunctionId,
    },
    /// A function of this id is there already.
    #[error("function {id} exists already")]
    FunctionExists {
        /// Which.
        id: FunctionId,
    },
    /// The function was changed since it was read.
    #[error("function {id} was changed by another client meanwhile")]
    FunctionChanged {
        /// Which.
        id: FunctionId,
    },
    /// The hostname leads to another function.
    #[error("hostname {hostname} belongs to function {owner}", hostname = hostname.as_str())]
    RouteTaken {
        /// The hostname.
        hostname: Hostname,
        /// The function that has it.
        owner: FunctionId,
    },
    /// The node is not one of this environment.
    #[error("node {ip} is not provisioned")]
    NodeUnknown {
        /// Its address.
        ip: Ipv4Addr,
    },
    /// The node still has containers assigned.
    #[error("node {ip} still has {containers} containers assigned")]
    NodeInUse {
        /// Its address.
        ip: Ipv4Addr,
        /// How many.
        containers: usize,
    },
    /// Another bismuthd serves this node.
    #[error("node {ip} is already served by another bismuthd, of epoch {epoch}")]
    NodeAlreadyServed {
        /// Its address.
        ip: Ipv4Addr,
        /// The epoch of the one that serves it.
        epoch: String,
    },
    /// No such container on this node.
    #[error("container {container} is not assigned to node {ip}")]
    ContainerUnknown {
        /// The node.
        ip: Ipv4Addr,
        /// Which container.
        container: ContainerId,
    },
    /// There is a container of this id already.
    #[error("container {container} is assigned to node {ip} already")]
    ContainerExists {
        /// The node.
        ip: Ipv4Addr,
        /// Which container.
        container: ContainerId,
    },
    /// The container serves another function.
    #[error("container {container} on node {ip} belongs to function {owner}")]
    ContainerOfOther {
        /// The node.
        ip: Ipv4Addr,
        /// Which container.
        container: ContainerId,
        /// The function it serves.
        owner: FunctionId,
    },
    /// The container is in its function's backend list, so requests may be on their way to it.
    #[error("container {container} on node {ip} is still a backend of function {function}")]
    StillRouted {
        /// The node.
        ip: Ipv4Addr,
        /// Which container.
        container: ContainerId,
        /// The function.
        function: FunctionId,
    },
    /// Not in the function's backend list.
    #[error("container {container} on node {ip} is not a backend of function {function}")]
    BackendUnknown {
        /// The node.
        ip: Ipv4Addr,
        /// Which container.
        container: ContainerId,
        /// The function.
        function: FunctionId,
    },
    /// One container is listed twice.
    #[error("container {container} is listed twice among the backends")]
    BackendTwice {
        /// Which.
        container: ContainerId,
    },
    /// More backends than one znode holds.
    #[error("function {id} would have {count} backends, at most {limit} fit")]
    TooManyBackends {
        /// Which function.
        id: FunctionId,
        /// How many were asked for.
        count: usize,
        /// How many fit.
        limit: usize,
    },
    /// A record does not fit, or what is stored cannot be read.
    #[error("{path}: {source}")]
    Record {
        /// Where it is, or was to be.
        path: String,
        /// What is wrong with it.
        source: codec::Error,
    },
    /// Others changed the same things again and again.
    #[error(
        "{act}: given up after {attempts} attempts, each in conflict with a change of another client"
    )]
    Contended {
        /// What was attempted.
        act: String,
        /// How often.
        attempts: u32,
    },
    /// The connection ended before the answer came, and ZooKeeper cannot be asked what became of it.
    /// **The change was made or was not.**
    #[error("{act}: the connection was lost and the outcome is unknown")]
    UnknownOutcome {
        /// What was attempted.
        act: String,
        /// What was seen last.
        source: bismuth_coord::Error,
    },
    /// The leader's term is over. Final: nothing was changed, and nothing that is fenced by this term can be any more.
    #[error("{act}: refused, because term {term} is over: another replica leads, or will")]
    TermLost {
        /// What was attempted.
        act: String,
        /// The number of the term.
        term: u64,
    },
    /// The tree changed since the audit found this.
    #[error("{what}: it changed since it was found; audit again")]
    FindingStale {
        /// What had been found.
        what: String,
    },
    /// There is no repair that a program may decide on.
    #[error("{what}: no automatic repair; {how_to_repair}")]
    NotRepairable {
        /// What was found.
        what: String,
        /// What to do.
        how_to_repair: String,
    },
    /// The tree did not answer, or refused.
    #[error(transparent)]
    Tree(#[from] bismuth_coord::Error),
}

impl Error {
    /// Whether ZooKeeper could not be asked, so that trying later may work.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Tree(error) => error.is_unavailable() || error.is_unknown_outcome(),
            Self::UnknownOutcome { .. } => true,
            _ => false,
        }
    }
}
