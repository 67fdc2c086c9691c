//! The registry: the vocabulary of `bismuth-model` on the tree of `bismuth-coord`.
//!
//! ```text
//!   api, ctl ──► create_function · replace_definition · switch_backends · delete_function …    one transaction each
//!                      │
//!                  the tree  ── layout.rs (every path) · codec (every byte)
//!                      │
//!   bismuthfe ◄── watch_routing     list, watch, swap whole
//!   bismuthd  ◄── watch_assignment  ──► update_container_status, register_node
//!   api       ◄── candidate: one leads, and writes by a fenced registry
//!   ctl       ◄── audit, repair
//! ```
//!
//! The happy path of a deployment:
//! 1. [`Registry::create_function`] writes definition, slots, what serves, routes and one assignment per slot at once;
//! 2. the node sees its assignment, starts the container and says so by [`Registry::update_container_status`];
//! 3. frontends see what serves, its backends and the routes, and send requests;
//! 4. [`Registry::replace_definition`] writes what is wanted and assigns slots of the next revision, and once they are
//!    proven [`Registry::switch_backends`] lets it serve;
//! 5. after they drained, [`Registry::release_container`] takes the old slots away.
//!
//! A change reads what it builds on, decides, and commits with the versions it read; overtaken by somebody else, it
//! reads and decides again, a bounded number of times. When a connection is lost before the answer, it looks
//! whether the change was made.

mod args;
pub mod audit;
mod backends;
pub mod codec;
mod containers;
mod deployment;
mod derive;
mod election;
mod error;
mod functions;
mod groups;
mod json;
mod layout;
mod migration;
mod node_registration;
mod nodes;
mod revisions;
mod routes;
mod store_claim;
mod term;
mod transaction;
mod watch;

use std::sync::Arc;

use bismuth_coord::{MAX_DATA_BYTES, Tree};
use bismuth_model::{Environment, SLOT_BYTES};

pub use args::ZooKeeperArgs;
pub use deployment::Deployment;
pub use election::{Candidate, ElectionState};
pub use error::{Error, Result};
pub use functions::{Function, FunctionPage};
pub use groups::GroupUsers;
pub use json::JsonError;
pub use layout::{Layout, ZnodeKind, name_of};
pub use node_registration::{NodeRegistration, RegistrationState};
pub use nodes::Node;
pub use term::Term;
pub use watch::{
    AssignedContainer, Assignment, RoutedFunction, RoutingSnapshot, StaleCounts, Unresolved,
    UnresolvedReason,
};

/// How many slots a function may have: their list fits into one znode, and so does that of its backends.
pub const MAX_SLOTS: usize = 2_000;
const _: () = assert!(MAX_SLOTS * SLOT_BYTES <= MAX_DATA_BYTES);

/// The registry of one environment. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    tree: Arc<dyn Tree>,
    layout: Layout,
    /// What each transaction is fenced by.
    term: Option<Term>,
}

impl Registry {
    /// The registry of `environment` in `tree`. Nothing is read or written yet.
    #[must_use]
    pub fn new(tree: Arc<dyn Tree>, environment: Environment) -> Self {
        Self {
            tree,
            layout: Layout::new(&environment),
            term: None,
        }
    }

    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The tree below, for what is not the registry's business.
    #[must_use]
    pub fn tree(&self) -> &Arc<dyn Tree> {
        &self.tree
    }

    /// Makes the environment. Done again, it creates what is missing and changes nothing else.
    ///
    /// # Errors
    /// [`Error::Tree`].
    pub async fn bootstrap(&self) -> Result<()> {
        for path in self.layout.base() {
            self.ensure(&path).await?;
        }
        Ok(())
    }

    /// Whether the environment is there, whole.
    ///
    /// # Errors
    /// [`Error::Tree`].
    pub async fn is_bootstrapped(&self) -> Result<bool> {
        for path in self.layout.base() {
            if self.tree.exists(&path).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn not_bootstrapped(&self) -> Error {
        Error::NotBootstrapped {
            root: self.layout.root().to_owned(),
        }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("root", &self.layout.root())
            .finish_non_exhaustive()
    }
}
