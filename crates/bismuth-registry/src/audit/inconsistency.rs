//! The kinds of inconsistencies and their messages.

use std::fmt;
use std::net::Ipv4Addr;

use bismuth_model::{Backend, FunctionId, Hostname, Revision};

/// An inconsistency between records.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inconsistency {
    /// A directory of the environment is missing.
    DirectoryMissing {
        /// Which.
        path: String,
    },
    /// Something is where nothing of ours belongs.
    Misplaced {
        /// Where.
        path: String,
    },
    /// A record cannot be decoded.
    Undecodable {
        /// Which.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A function has no backend list, not even an empty one.
    ListMissing {
        /// Which function.
        function: FunctionId,
    },
    /// A function's slots, or what frontends are told of it, are not what its backends and assignments are; or it has
    /// none, because a version without them wrote it.
    SlotsOutdated {
        /// Which function.
        function: FunctionId,
    },
    /// A container is listed twice.
    BackendTwice {
        /// By which function.
        function: FunctionId,
        /// Which.
        backend: Backend,
    },
    /// A backend is on a node that is not provisioned.
    BackendOnUnknownNode {
        /// Of which function.
        function: FunctionId,
        /// Which.
        backend: Backend,
    },
    /// A backend is not assigned to its node.
    BackendUnassigned {
        /// Of which function.
        function: FunctionId,
        /// Which.
        backend: Backend,
    },
    /// A backend serves another function.
    BackendOfOther {
        /// The function that lists it.
        function: FunctionId,
        /// Which.
        backend: Backend,
        /// The function it serves.
        serves: FunctionId,
    },
    /// A container is assigned for a function that does not exist.
    ContainerOfMissingFunction {
        /// Which.
        container: Backend,
        /// The function.
        function: FunctionId,
    },
    /// A container is assigned for a revision that the function has not had.
    ContainerOfFutureRevision {
        /// Which.
        container: Backend,
        /// The function.
        function: FunctionId,
        /// The container's revision.
        revision: Revision,
        /// The function's revision.
        current: Revision,
    },
    /// A container is assigned, and no requests go there.
    ContainerUnlisted {
        /// Which.
        container: Backend,
        /// The function.
        function: FunctionId,
    },
    /// A hostname leads to a function that does not exist.
    RouteToMissingFunction {
        /// The hostname.
        hostname: Hostname,
        /// The function.
        function: FunctionId,
    },
    /// A hostname leads to a function whose definition does not have it.
    RouteUnclaimed {
        /// The hostname.
        hostname: Hostname,
        /// The function.
        function: FunctionId,
    },
    /// A function's hostname leads nowhere.
    RouteMissing {
        /// The hostname.
        hostname: Hostname,
        /// The function.
        function: FunctionId,
    },
    /// A function's hostname leads elsewhere.
    RouteElsewhere {
        /// The hostname.
        hostname: Hostname,
        /// The function whose definition has it.
        function: FunctionId,
        /// Where it leads.
        leads_to: FunctionId,
    },
    /// Several functions' definitions have one hostname.
    RouteContested {
        /// The hostname.
        hostname: Hostname,
        /// The functions.
        functions: Vec<FunctionId>,
    },
    /// A node has no directory for assignments.
    NodeWithoutDirectory {
        /// Which node.
        ip: Ipv4Addr,
    },
    /// The `alive` znode of a node is not ephemeral and would outlive its bismuthd.
    AlivePersistent {
        /// Which node.
        ip: Ipv4Addr,
    },
    /// The leader's znode is not ephemeral, so that no replica can lead.
    LeaderPersistent {
        /// Where it is.
        path: String,
    },
}

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DirectoryMissing { path } => write!(f, "{path} does not exist"),
            Self::Misplaced { path } => {
                write!(f, "{path} is not a path that Bismuth uses")
            }
            Self::Undecodable { path, reason } => write!(f, "{path} cannot be read: {reason}"),
            Self::ListMissing { function } => write!(f, "function {function} has no backend list"),
            Self::SlotsOutdated { function } => write!(
                f,
                "the slots of function {function} are not its backends and assignments"
            ),
            Self::BackendTwice { function, backend } => {
                write!(f, "function {function} lists backend {backend} twice")
            }
            Self::BackendOnUnknownNode { function, backend } => {
                write!(
                    f,
                    "function {function} has backend {backend} on a node that is not provisioned"
                )
            }
            Self::BackendUnassigned { function, backend } => {
                write!(
                    f,
                    "function {function} has backend {backend}, which is not assigned to that node"
                )
            }
            Self::BackendOfOther {
                function,
                backend,
                serves,
            } => {
                write!(
                    f,
                    "function {function} has backend {backend}, which serves function {serves}"
                )
            }
            Self::ContainerOfMissingFunction {
                container,
                function,
            } => {
                write!(
                    f,
                    "container {container} serves function {function}, which does not exist"
                )
            }
            Self::ContainerOfFutureRevision {
                container,
                function,
                revision,
                current,
            } => {
                write!(
                    f,
                    "container {container} serves revision {revision} of function {function}, which is at {current}"
                )
            }
            Self::ContainerUnlisted {
                container,
                function,
            } => {
                write!(
                    f,
                    "container {container} serves function {function}, which does not list it as a backend"
                )
            }
            Self::RouteToMissingFunction { hostname, function } => {
                write!(
                    f,
                    "hostname {hostname} leads to function {function}, which does not exist"
                )
            }
            Self::RouteUnclaimed { hostname, function } => {
                write!(
                    f,
                    "hostname {hostname} leads to function {function}, whose definition does not have it"
                )
            }
            Self::RouteMissing { hostname, function } => {
                write!(
                    f,
                    "hostname {hostname} of function {function} leads nowhere"
                )
            }
            Self::RouteElsewhere {
                hostname,
                function,
                leads_to,
            } => {
                write!(
                    f,
                    "hostname {hostname} of function {function} leads to function {leads_to}"
                )
            }
            Self::RouteContested {
                hostname,
                functions,
            } => {
                write!(
                    f,
                    "hostname {hostname} is in the definitions of several functions:"
                )?;
                functions
                    .iter()
                    .try_for_each(|function| write!(f, " {function}"))
            }
            Self::NodeWithoutDirectory { ip } => {
                write!(f, "node {ip} has no directory for assignments")
            }
            Self::AlivePersistent { ip } => {
                write!(
                    f,
                    "the `alive` znode of node {ip} is not ephemeral and would stay for ever"
                )
            }
            Self::LeaderPersistent { path } => {
                write!(
                    f,
                    "{path} is not ephemeral, so that no bismuth-api can lead"
                )
            }
        }
    }
}
