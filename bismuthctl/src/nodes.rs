//! `bootstrap`, `provision`, `deprovision`, `list-nodes`: the environment and its nodes.

use std::net::Ipv4Addr;

use bismuth_registry::Node;
use serde::Serialize;

use crate::byte_size;
use crate::error::Error;
use crate::output::{Output, or_dash, table, yes};
use crate::session::Session;

pub(crate) async fn bootstrap(session: &Session) -> Result<(), Error> {
    session.registry.bootstrap().await?;
    eprintln!("{} is there", session.registry.layout().root());
    Ok(())
}

pub(crate) async fn provision(session: &Session, ip: Ipv4Addr) -> Result<(), Error> {
    let new = session.registry.provision_node(ip).await?;
    eprintln!("{ip} is {} node", if new { "a" } else { "already a" });
    Ok(())
}

pub(crate) async fn deprovision(session: &Session, ip: Ipv4Addr) -> Result<(), Error> {
    session.registry.deprovision_node(ip).await?;
    eprintln!("{ip} is no node any more");
    Ok(())
}

#[derive(Serialize)]
struct NodeOutput<'a> {
    ip: Ipv4Addr,
    schedulable: bool,
    alive: bool,
    facts: Option<&'a bismuth_model::NodeFacts>,
    containers: usize,
}

pub(crate) async fn list(session: &Session, output: &mut Output<'_>) -> Result<(), Error> {
    let nodes = session.registry.list_nodes().await?;
    let shown: Vec<NodeOutput<'_>> = nodes.iter().map(show).collect();
    output.answer(&shown, || {
        let row = |node: &NodeOutput<'_>| {
            let version = node.facts.and_then(|facts| facts.versions.get("bismuthd"));
            [
                node.ip.to_string(),
                yes(node.alive),
                yes(node.schedulable),
                node.containers.to_string(),
                or_dash(node.facts.map(|facts| facts.cores)),
                or_dash(node.facts.map(|facts| byte_size::show(facts.memory))),
                or_dash(version),
            ]
        };
        let header = [
            "IP",
            "ALIVE",
            "SCHEDULABLE",
            "CONTAINERS",
            "CORES",
            "MEMORY",
            "VERSION",
        ];
        table(header, shown.iter().map(row))
    })
}

fn show(node: &Node) -> NodeOutput<'_> {
    NodeOutput {
        ip: node.ip,
        schedulable: node.schedulable,
        alive: node.is_alive(),
        facts: node.facts.as_ref(),
        containers: node.containers.len() + node.unreadable.len(),
    }
}
