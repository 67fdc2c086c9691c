//! Builds and parses the paths of all znodes. The one file that knows them.
//!
//! ```text
//! /{environment}
//!  ├─ function/{id}                  FunctionRecord
//!  │               ├─ backends       packed list of Backend
//!  │               ├─ serving        Serving: what frontends need beside the backends
//!  │               ├─ slots          packed list of Slot: every container of the function, and what it is for
//!  │               └─ revision/{n}   RevisionRecord
//!  ├─ node/{ip}                      NodeRecord
//!  │           ├─ alive              NodeFacts, ephemeral
//!  │           └─ container/{id}     ContainerRecord
//!  ├─ route/{hostname}               FunctionId
//!  ├─ service/store                  StoreClaim, if the services keep their data on one node
//!  └─ election                       directory
//!     ├─ leader                      LeaderRecord, ephemeral: the replica that leads
//!     └─ term                        TermRecord; its version fences a leader's writes
//! ```
//!
//! [`Layout`] builds paths from typed parts, and [`Layout::znode_kind`] reads them back: a path that it does not
//! recognise is misplaced.

use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use bismuth_model::{ContainerId, Environment, FunctionId, Hostname, Revision};

/// The name of the backend list below a function.
const BACKENDS: &str = "backends";
/// The name of what serves, below a function.
const SERVING: &str = "serving";
/// The name of the slot list below a function.
const SLOTS: &str = "slots";
/// The name of the directory of deployed definitions below a function.
const REVISION: &str = "revision";
/// The name of the ephemeral node below a worker node.
const ALIVE: &str = "alive";
/// The name of the directory of assignments below a worker node.
const CONTAINER: &str = "container";

/// Builds every path of one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: Arc<str>,
}

/// What kind of znode a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZnodeKind {
    /// The environment itself; no data.
    Root,
    /// The directory of functions; no data.
    Functions,
    /// A function's definition.
    Function(FunctionId),
    /// A function's backend list.
    Backends(FunctionId),
    /// What frontends need of a function beside its backends.
    Serving(FunctionId),
    /// A function's slot list.
    Slots(FunctionId),
    /// The directory of a function's deployed definitions; no data.
    Revisions(FunctionId),
    /// One definition that was deployed.
    Revision(FunctionId, Revision),
    /// The directory of worker nodes; no data.
    Nodes,
    /// A worker node.
    Node(Ipv4Addr),
    /// The registration of a worker node, ephemeral (`NodeFacts`).
    Alive(Ipv4Addr),
    /// The directory of a worker node's assignments; no data.
    Containers(Ipv4Addr),
    /// One assignment and what became of it.
    Container(Ipv4Addr, ContainerId),
    /// The directory of routes; no data.
    Routes,
    /// The function that a hostname leads to.
    Route(Hostname),
    /// The directory of what the services share; no data. Made when it is needed.
    Services,
    /// The claim on the services' embedded store.
    Store,
    /// The directory of the election, and what else is in it (other programs' locks).
    Election,
    /// The replica that leads, ephemeral.
    Leader,
    /// The latest term.
    Term,
}

impl Layout {
    /// The paths of `environment`.
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        Self {
            root: format!("/{environment}").into(),
        }
    }

    /// The node that everything is below.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The directory of functions.
    #[must_use]
    pub fn functions(&self) -> String {
        format!("{}/function", self.root)
    }

    /// A function's definition.
    #[must_use]
    pub fn function(&self, id: FunctionId) -> String {
        format!("{}/function/{id}", self.root)
    }

    /// A function's backend list.
    #[must_use]
    pub fn backends(&self, id: FunctionId) -> String {
        format!("{}/function/{id}/{BACKENDS}", self.root)
    }

    /// What frontends need of a function beside its backends.
    #[must_use]
    pub fn serving(&self, id: FunctionId) -> String {
        format!("{}/function/{id}/{SERVING}", self.root)
    }

    /// A function's slot list.
    #[must_use]
    pub fn slots(&self, id: FunctionId) -> String {
        format!("{}/function/{id}/{SLOTS}", self.root)
    }

    /// The directory of a function's deployed definitions.
    #[must_use]
    pub fn revisions(&self, id: FunctionId) -> String {
        format!("{}/function/{id}/{REVISION}", self.root)
    }

    /// One definition that was deployed.
    #[must_use]
    pub fn revision(&self, id: FunctionId, revision: Revision) -> String {
        format!("{}/function/{id}/{REVISION}/{revision}", self.root)
    }

    /// The directory of worker nodes.
    #[must_use]
    pub fn nodes(&self) -> String {
        format!("{}/node", self.root)
    }

    /// A worker node.
    #[must_use]
    pub fn node(&self, ip: Ipv4Addr) -> String {
        format!("{}/node/{ip}", self.root)
    }

    /// The registration of a worker node, ephemeral (`NodeFacts`).
    #[must_use]
    pub fn alive(&self, ip: Ipv4Addr) -> String {
        format!("{}/node/{ip}/{ALIVE}", self.root)
    }

    /// The directory of a worker node's assignments.
    #[must_use]
    pub fn containers(&self, ip: Ipv4Addr) -> String {
        format!("{}/node/{ip}/{CONTAINER}", self.root)
    }

    /// One assignment.
    #[must_use]
    pub fn container(&self, ip: Ipv4Addr, container: ContainerId) -> String {
        format!("{}/node/{ip}/{CONTAINER}/{container}", self.root)
    }

    /// The directory of routes.
    #[must_use]
    pub fn routes(&self) -> String {
        format!("{}/route", self.root)
    }

    /// One route.
    #[must_use]
    pub fn route(&self, hostname: &Hostname) -> String {
        format!("{}/route/{}", self.root, hostname.as_str())
    }

    /// The directory of what the services share.
    #[must_use]
    pub fn services(&self) -> String {
        format!("{}/service", self.root)
    }

    /// The claim on the services' embedded store.
    #[must_use]
    pub fn store(&self) -> String {
        format!("{}/service/store", self.root)
    }

    /// The directory of the election.
    #[must_use]
    pub fn election(&self) -> String {
        format!("{}/election", self.root)
    }

    /// The replica that leads, ephemeral.
    #[must_use]
    pub fn leader(&self) -> String {
        format!("{}/election/leader", self.root)
    }

    /// The latest term.
    #[must_use]
    pub fn term(&self) -> String {
        format!("{}/election/term", self.root)
    }

    /// What an empty environment consists of, parents first.
    #[must_use]
    pub fn base(&self) -> [String; 5] {
        [
            self.root.to_string(),
            self.functions(),
            self.nodes(),
            self.routes(),
            self.election(),
        ]
    }

    /// What belongs at `path`; `None` if nothing of ours does. Only the one canonical spelling of an id, address
    /// or hostname is recognised, so a path and its kind determine each other.
    #[must_use]
    pub fn znode_kind(&self, path: &str) -> Option<ZnodeKind> {
        let rest = path.strip_prefix(&*self.root)?;
        let Some(rest) = rest.strip_prefix('/') else {
            return rest.is_empty().then_some(ZnodeKind::Root);
        };
        let segments: Vec<&str> = rest.split('/').collect();
        match *segments.as_slice() {
            ["function"] => Some(ZnodeKind::Functions),
            ["function", id] => canonical(id).map(ZnodeKind::Function),
            ["function", id, BACKENDS] => canonical(id).map(ZnodeKind::Backends),
            ["function", id, SERVING] => canonical(id).map(ZnodeKind::Serving),
            ["function", id, SLOTS] => canonical(id).map(ZnodeKind::Slots),
            ["function", id, REVISION] => canonical(id).map(ZnodeKind::Revisions),
            ["function", id, REVISION, number] => {
                Some(ZnodeKind::Revision(canonical(id)?, canonical(number)?))
            }
            ["node"] => Some(ZnodeKind::Nodes),
            ["node", ip] => canonical(ip).map(ZnodeKind::Node),
            ["node", ip, ALIVE] => canonical(ip).map(ZnodeKind::Alive),
            ["node", ip, CONTAINER] => canonical(ip).map(ZnodeKind::Containers),
            ["node", ip, CONTAINER, id] => {
                Some(ZnodeKind::Container(canonical(ip)?, canonical(id)?))
            }
            ["route"] => Some(ZnodeKind::Routes),
            ["route", hostname] => canonical(hostname).map(ZnodeKind::Route),
            ["service"] => Some(ZnodeKind::Services),
            ["service", "store"] => Some(ZnodeKind::Store),
            ["election", "leader"] => Some(ZnodeKind::Leader),
            ["election", "term"] => Some(ZnodeKind::Term),
            ["election", ..] => Some(ZnodeKind::Election),
            _ => None,
        }
    }
}

/// The last segment of a path.
#[must_use]
pub fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Reads a name, unless it is another spelling than the one this program writes.
pub(crate) fn canonical<T: FromStr + ToString>(name: &str) -> Option<T> {
    let value = T::from_str(name).ok()?;
    (value.to_string() == name).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_recognised_as_the_kind_it_was_built_for() {
        let layout = Layout::new(&"staging".parse().unwrap());
        let (id, container) = (FunctionId::new_random(), ContainerId::new_random());
        let ip = Ipv4Addr::LOCALHOST;
        let hostname = Hostname::parse("a.b").unwrap();
        for (path, kind) in [
            (layout.root().to_owned(), ZnodeKind::Root),
            (layout.functions(), ZnodeKind::Functions),
            (layout.function(id), ZnodeKind::Function(id)),
            (layout.backends(id), ZnodeKind::Backends(id)),
            (layout.serving(id), ZnodeKind::Serving(id)),
            (layout.slots(id), ZnodeKind::Slots(id)),
            (layout.revisions(id), ZnodeKind::Revisions(id)),
            (
                layout.revision(id, Revision(7)),
                ZnodeKind::Revision(id, Revision(7)),
            ),
            (layout.nodes(), ZnodeKind::Nodes),
            (layout.node(ip), ZnodeKind::Node(ip)),
            (layout.alive(ip), ZnodeKind::Alive(ip)),
            (layout.containers(ip), ZnodeKind::Containers(ip)),
            (
                layout.container(ip, container),
                ZnodeKind::Container(ip, container),
            ),
            (layout.routes(), ZnodeKind::Routes),
            (layout.route(&hostname), ZnodeKind::Route(hostname)),
            (layout.services(), ZnodeKind::Services),
            (layout.store(), ZnodeKind::Store),
            (layout.election(), ZnodeKind::Election),
            (layout.leader(), ZnodeKind::Leader),
            (layout.term(), ZnodeKind::Term),
        ] {
            assert_eq!(layout.znode_kind(&path), Some(kind), "{path}");
            bismuth_coord::path::validate(&path).unwrap();
        }
    }

    #[test]
    fn paths_are_spelled_as_documented() {
        let layout = Layout::new(&Environment::default());
        let id: FunctionId = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap();
        let container: ContainerId = "00000000-0000-0000-0000-000000000001".parse().unwrap();
        let ip = Ipv4Addr::new(10, 0, 0, 7);
        let function = "/default/function/67e55044-10b1-426f-9247-bb680e5fe0c8";
        assert_eq!(layout.function(id), function);
        assert_eq!(layout.backends(id), format!("{function}/backends"));
        assert_eq!(layout.node(ip), "/default/node/10.0.0.7");
        assert_eq!(layout.alive(ip), "/default/node/10.0.0.7/alive");
        let assignment = "/default/node/10.0.0.7/container/00000000-0000-0000-0000-000000000001";
        assert_eq!(layout.container(ip, container), assignment);
        assert_eq!(
            layout.route(&Hostname::parse("a.B.").unwrap()),
            "/default/route/a.b"
        );
    }

    #[test]
    fn a_path_that_is_not_canonical_has_no_kind() {
        let layout = Layout::new(&Environment::default());
        for path in [
            "/",
            "/other",
            "/defaults",
            "/default/",
            "/default/functions",
            "/default/function/67E55044-10B1-426F-9247-BB680E5FE0C8",
            "/default/function/67e55044-10b1-426f-9247-bb680e5fe0c8/other",
            "/default/function/67e55044-10b1-426f-9247-bb680e5fe0c8/backends/x",
            "/default/function/67e55044-10b1-426f-9247-bb680e5fe0c8/revision/07",
            "/default/node/10.0.0.07",
            "/default/node/::1",
            "/default/route/A.b",
            "/default/route/a.b.",
            "/default/route/a.b/c",
        ] {
            assert_eq!(layout.znode_kind(path), None, "{path}");
        }
    }
}
