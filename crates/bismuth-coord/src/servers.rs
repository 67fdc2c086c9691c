//! Parses the list of ZooKeeper servers, `host:port,…`.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// One or more `host:port`, separated by commas. The port may be left out; it is 2181 then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers(String);

impl Servers {
    /// The list in the form the client takes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Servers {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut servers = Vec::new();
        for server in text.split(',').map(str::trim) {
            if let Some(fault) = fault(server) {
                return Err(Error::InvalidServers {
                    servers: text.to_owned(),
                    fault,
                });
            }
            servers.push(server);
        }
        Ok(Self(servers.join(",")))
    }
}

fn fault(server: &str) -> Option<String> {
    if server.is_empty() {
        return Some("a server's name is empty".to_owned());
    }
    // A path would be a chroot, and everything lives under an environment already.
    if let Some(c) = server
        .chars()
        .find(|&c| c.is_whitespace() || c.is_control() || "/@?#".contains(c))
    {
        return Some(format!("{server:?} has a {c:?} in it"));
    }
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let Some((host, after)) = rest.split_once(']') else {
                return Some(format!("{server:?} has no closing bracket"));
            };
            (
                host,
                after
                    .strip_prefix(':')
                    .or((!after.is_empty()).then_some("")),
            )
        }
        None => match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    if host.is_empty() {
        return Some(format!("{server:?} has no host"));
    }
    match port.map(u16::from_str) {
        None | Some(Ok(1..)) => None,
        Some(_) => Some(format!("{server:?} has no port between 1 and 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_accepted_with_and_without_ports() {
        for text in [
            "127.0.0.1:2181",
            "zk",
            "a:1,b:65535,c",
            "[::1]:2181",
            "[::1]",
        ] {
            assert_eq!(text.parse::<Servers>().unwrap().as_str(), text);
        }
        assert_eq!(
            "a:1, b:2".parse::<Servers>().unwrap().to_string(),
            "a:1,b:2"
        );
    }

    #[test]
    fn a_malformed_list_is_refused_with_the_server_named() {
        for text in [
            "",
            ",",
            "a:1,",
            ":2181",
            "a:0",
            "a:x",
            "a:65536",
            "http://a:1",
            "a:1/chroot",
            "a b",
            "[::1",
            "[::1]x",
        ] {
            let error = text.parse::<Servers>().unwrap_err();
            assert!(
                matches!(error, Error::InvalidServers { .. }),
                "{text:?}: {error}"
            );
        }
    }
}
