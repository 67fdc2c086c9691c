//! Claim on the services' embedded store: the one node that holds the data.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// An embedded store of the services: it is a directory of one node, so an environment has at most one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreClaim {
    /// The node whose disk it is on.
    pub node: Ipv4Addr,
    /// Which directory: made once with it, and kept in it.
    pub store: String,
}
