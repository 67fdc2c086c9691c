//! Resolves host and path of a request to a function and the path it sees. Pure.
//!
//! `Host` wins; then `/invoke/{function id}[/rest]`. Path and query reach the function byte by byte as the client
//! sent them: nothing is decoded, no dot segment is resolved.

use bismuth_model::FunctionId;

use crate::table::{RoutingTable, canonical_host};

/// The first segment of paths that name a function.
const INVOKE: &str = "/invoke/";

/// A request that has found its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved<'a> {
    pub function: FunctionId,
    /// What was taken off the path in front (`/invoke/{id}`), if anything.
    pub prefix: Option<&'a str>,
    /// The path that the function sees, still encoded; empty means `/`.
    pub rest: &'a str,
}

/// Why a request has no function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unrouted {
    /// Neither way leads anywhere.
    #[error(
        "no function: host {host:?} has no route, and the path is not /invoke/{{function id}}[/...]"
    )]
    NoRoute { host: String },
    /// `/invoke/` and then no id.
    #[error(
        "{0:?} is not a function id: expected a UUID in lower case with hyphens after /invoke/"
    )]
    MalformedId(String),
}

/// A malformed id is echoed up to here.
const ECHO_MAX: usize = 64;

/// Finds the function. `path` is the request's, without query.
pub fn resolve<'a>(
    table: &RoutingTable,
    host: Option<&str>,
    path: &'a str,
) -> Result<Resolved<'a>, Unrouted> {
    if let Some(function) = host.and_then(|host| by_host(table, host))
        && path.starts_with('/')
    {
        return Ok(Resolved {
            function,
            prefix: None,
            rest: path,
        });
    }
    let Some(named) = path.strip_prefix(INVOKE) else {
        let host = host.unwrap_or_default().to_owned();
        return Err(Unrouted::NoRoute { host });
    };
    let length = named.find('/').unwrap_or(named.len());
    let (id, rest) = named.split_at(length);
    match id.parse() {
        Ok(function) => Ok(Resolved {
            function,
            prefix: Some(&path[..INVOKE.len() + length]),
            rest,
        }),
        Err(_) => Err(Unrouted::MalformedId(id.chars().take(ECHO_MAX).collect())),
    }
}

fn by_host(table: &RoutingTable, host: &str) -> Option<FunctionId> {
    if !table.has_routes() {
        return None;
    }
    // As most clients write it, it is canonical already.
    let found = table.route(host);
    found.or_else(|| table.route(canonical_host(host)?.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bismuth_model::Hostname;
    use bismuth_registry::RoutingSnapshot;

    const ID: &str = "0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b";

    fn table() -> RoutingTable {
        let id = FunctionId::from_bytes([7; 16]);
        let snapshot = RoutingSnapshot {
            routes: [(Hostname::parse("a.example").unwrap(), id)].into(),
            ..Default::default()
        };
        RoutingTable::build(&snapshot, 8001, &RoutingTable::default())
    }

    #[test]
    fn a_routed_host_wins_over_the_path_and_sees_all_of_it() {
        let path = format!("/invoke/{ID}/x");
        let resolved = resolve(&table(), Some("A.example:8000"), &path).unwrap();
        assert_eq!(resolved.function, FunctionId::from_bytes([7; 16]));
        assert_eq!((resolved.prefix, resolved.rest), (None, path.as_str()));
    }

    #[test]
    fn the_rest_of_an_invoke_path_is_passed_on_unchanged() {
        for rest in ["", "/", "/a", "//a", "/a/../b", "/%2e%2E/%2F", "/a%20b;c=d"] {
            let path = format!("/invoke/{ID}{rest}");
            let resolved = resolve(&table(), Some("127.0.0.1:8000"), &path).unwrap();
            assert_eq!(resolved.function.to_string(), ID);
            assert_eq!(resolved.prefix, Some(&path[..8 + 36]));
            assert_eq!(resolved.rest, rest);
        }
    }

    #[test]
    fn an_unrouted_request_is_answered_with_both_ways_to_address_a_function() {
        let error = resolve(&table(), Some("b.example"), "/x").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("b.example") && text.contains("/invoke/"),
            "{text}"
        );
        for path in ["*", "/", "/invoke", "/Invoke/x"] {
            assert!(
                matches!(resolve(&table(), None, path), Err(Unrouted::NoRoute { .. })),
                "{path}"
            );
        }
    }

    #[test]
    fn a_malformed_id_is_quoted_and_truncated() {
        for id in ["x", "", &ID[1..], &format!("{ID}0")] {
            let path = format!("/invoke/{id}/y");
            assert_eq!(
                resolve(&table(), None, &path),
                Err(Unrouted::MalformedId(id.to_owned()))
            );
        }
        let path = format!("/invoke/{}", "x".repeat(1000));
        let Err(Unrouted::MalformedId(echo)) = resolve(&table(), None, &path) else {
            panic!("not malformed");
        };
        assert_eq!(echo.len(), ECHO_MAX);
    }
}
