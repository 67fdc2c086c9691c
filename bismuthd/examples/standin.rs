//! Scratch, not committed: stands in for bismuth-api and bismuthctl.
#![allow(missing_docs, clippy::unwrap_used)]
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_http::{Body, Limits, serve_connection};
use bismuth_model::*;
use bismuth_registry::Registry;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;

fn flags() -> (HashMap<String, String>, Vec<String>) {
    let (mut flags, mut words) = (HashMap::new(), vec![]);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.strip_prefix("--") {
            Some(name) => drop(flags.insert(name.to_owned(), args.next().unwrap())),
            None => words.push(arg),
        }
    }
    (flags, words)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (flags, words) = flags();
    let tree = ZkTree::connect_lazy(&flags["zookeeper"], ConnectOptions::default());
    let registry = Registry::new(Arc::new(tree), flags["zookeeper-env"].parse()?);
    if std::env::args().next().unwrap().ends_with("bismuthctl") {
        return ctl(&registry, &words).await;
    }
    let listener = tokio::net::TcpListener::bind(&flags["listen"]).await?;
    let local = tokio::task::LocalSet::new();
    let registry = Rc::new(registry);
    local
        .run_until(async move {
            loop {
                let (stream, peer) = listener.accept().await?;
                let registry = registry.clone();
                tokio::task::spawn_local(async move {
                    let service = |request, _| {
                        let registry = registry.clone();
                        async move { api(&registry, request).await }
                    };
                    let limits = Limits::new("api");
                    let _ =
                        serve_connection(stream, peer, &limits, std::future::pending(), service)
                            .await;
                });
            }
        })
        .await
}

async fn ctl(registry: &Registry, words: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["bootstrap"] => drop(registry.bootstrap().await?),
        ["provision", ip] => drop(registry.provision_node(ip.parse()?).await?),
        ["add-backend", id, ip] => {
            println!(
                "{}",
                registry
                    .add_backend(id.parse()?, ip.parse()?)
                    .await?
                    .container_id
            )
        }
        ["remove-backend", id, ip, container] => {
            registry
                .remove_backend(id.parse()?, ip.parse()?, container.parse()?)
                .await?;
            registry
                .release_container(ip.parse()?, container.parse()?)
                .await?;
        }
        _ => anyhow::bail!("{words:?}"),
    }
    Ok(())
}

async fn api(registry: &Registry, request: Request<Incoming>) -> Response<Body> {
    match try_api(registry, request).await {
        Ok(value) => Response::new(Body::from(bytes::Bytes::from(value.to_string()))),
        Err(error) => {
            let mut response = Response::new(Body::from(bytes::Bytes::from(format!("{error:#}"))));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

async fn try_api(
    registry: &Registry,
    request: Request<Incoming>,
) -> anyhow::Result<serde_json::Value> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if path == "/readyz" {
        return Ok(json!("ok"));
    }
    if head.method == Method::POST {
        let definition = FunctionDefinition::from_json(&body.collect().await?.to_bytes())?;
        let mut nodes = registry.list_nodes().await?;
        nodes.retain(|node| node.is_alive());
        nodes.sort_by_key(|node| (node.containers.len(), node.ip));
        let slots: Vec<Backend> = nodes
            .iter()
            .cycle()
            .take(definition.max_instances as usize)
            .map(|node| Backend {
                ip: node.ip,
                container_id: ContainerId::new_random(),
            })
            .collect();
        let id = FunctionId::new_random();
        registry.create_function(id, &definition, &slots).await?;
        return Ok(json!({"id": id}));
    }
    let id: FunctionId = path.strip_prefix("/function/").unwrap_or("").parse()?;
    if head.method == Method::DELETE {
        registry.delete_function(id).await?;
        return Ok(json!({}));
    }
    let function = registry
        .function(id)
        .await?
        .ok_or(anyhow::anyhow!("unknown"))?;
    let statuses = registry.container_statuses(&function.backends).await?;
    let backends: Vec<_> = function
        .backends
        .iter()
        .zip(statuses)
        .map(|(backend, record)| {
            let status = record.map(|record| record.status);
            json!({
                "backend": {"ip": backend.ip, "container_id": backend.container_id},
                "status": status.as_ref().map(|s| s.state.public_name()),
                "reason": status.and_then(|s| s.reason),
            })
        })
        .collect();
    Ok(json!({"definition": function.record.definition, "backends": backends}))
}
