//! A real ZooKeeper, from Debian's `zookeeper` package. `expire_session(id)` makes it forget a session, as if its timeout had passed.

mod wire;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::Program;
use crate::server::{Kind, Server};

/// A client comes back within milliseconds, so that it wins against us now and then, and not often.
const EXPIRE_ATTEMPTS: u32 = 20;
/// A server that is asked between listening and having its database forgets the connection
/// (`ZooKeeperServer.removeCnxn` of 3.8 fails there with a null pointer), so it must be asked anew.
const EARLY_ANSWER_BOUND: Duration = Duration::from_secs(1);
/// Sessions expire between 2 and 20 ticks. With half a second they expire whenever a build runs beside the test.
const DEFAULT_TICK: Duration = Duration::from_secs(2);

/// One ZooKeeper server on a loopback port, with its own data directory.
pub type ZooKeeper = Server<ZooKeeperKind>;

/// See [`ZooKeeper`].
#[derive(Debug)]
pub struct ZooKeeperKind;

impl Kind for ZooKeeperKind {
    const NAME: &'static str = "zookeeper";
    // A JVM on a busy two-core machine needs seconds to come up.
    const START_BOUND: Duration = Duration::from_secs(60);

    fn program(server: &ZooKeeper) -> Result<Program> {
        let conf = server.dir().join("conf");
        // A small heap and the simplest compiler and collector: several of these run beside a build.
        // Data outlives a killed process in the page cache, so forcing it to disk would only cost time.
        Ok(Program::new("zookeeper", "java", server.dir())
            .args(["-Xmx128m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .args(["-Dzookeeper.forceSync=no", "-Dzookeeper.skipACL=yes", "-Djava.net.preferIPv4Stack=true"])
            .arg("-cp")
            .arg(format!("{}:/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-log4j12.jar:/usr/share/java/log4j-1.2.jar", conf.display()))
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(conf.join("zoo.cfg")))
    }

    /// It answers as standalone, leader or follower.
    async fn probe(server: &ZooKeeper) -> Result<()> {
        let asked = wire::four_letter_word(server.address(), "srvr");
        let answer = tokio::time::timeout(EARLY_ANSWER_BOUND, asked).await;
        let answer = answer.context("it accepts connections and does not answer")??;
        let first = answer.lines().next().unwrap_or_default();
        ensure!(answer.contains("Mode: "), "it answers {first:?}");
        Ok(())
    }
}

/// Settings of a server before it starts.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    tick: Duration,
}

impl Builder {
    /// The unit of ZooKeeper's timeouts: sessions live 2 to 20 ticks. Two seconds by default.
    pub fn tick_time(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// Starts the server and waits until it serves. Fails when ZooKeeper is not installed.
    pub async fn start(self) -> Result<ZooKeeper> {
        let server = ZooKeeper::new(ZooKeeperKind)?;
        self.configure(&server)?;
        server.started().await
    }

    fn configure(&self, server: &ZooKeeper) -> Result<()> {
        let (data, conf) = (server.dir().join("data"), server.dir().join("conf"));
        for path in [&data, &conf] {
            fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        }
        let settings = format!(
            "tickTime={}\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPortAddress=127.0.0.1\nclientPort={}\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n",
            self.tick.as_millis(),
            data.display(),
            server.address().port(),
        );
        let log4j = "log4j.rootLogger=INFO, OUT\n\
                     log4j.logger.org.apache.zookeeper.server.NIOServerCnxn=ERROR\n\
                     log4j.appender.OUT=org.apache.log4j.ConsoleAppender\n\
                     log4j.appender.OUT.layout=org.apache.log4j.PatternLayout\n\
                     log4j.appender.OUT.layout.ConversionPattern=%d{ISO8601} %p %c{1} %m%n\n";
        for (name, text) in [("zoo.cfg", settings.as_str()), ("log4j.properties", log4j)] {
            let path = conf.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

impl ZooKeeper {
    /// A server with default settings that is not started yet.
    pub fn builder() -> Builder {
        Builder { tick: DEFAULT_TICK }
    }

    /// Starts a server with default settings.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// Where clients connect, as `HOST:PORT`.
    pub fn connect_string(&self) -> String {
        self.address().to_string()
    }

    /// Ids of the sessions that the server knows (as `dump` prints them).
    /// Fails when the server does not answer.
    pub async fn sessions(&self) -> Result<Vec<i64>> {
        Ok(wire::session_ids(
            &wire::four_letter_word(self.address(), "dump").await?,
        ))
    }

    /// Ends a session as if its timeout had passed: its ephemeral nodes go, and its client is told `Expired`.
    /// Fails when the server does not answer or does not know the session.
    pub async fn expire_session(&self, session: i64) -> Result<()> {
        ensure!(
            self.sessions().await?.contains(&session),
            "the server at {} does not know session {session:#x}",
            self.address()
        );
        let mut attempts = 1;
        while let Err(error) = wire::close_session(self.address(), session).await {
            // Its client, which was cut off from it, may have come back for it before it was closed.
            if !self.sessions().await?.contains(&session) {
                break;
            }
            if attempts == EXPIRE_ATTEMPTS {
                return Err(error);
            }
            attempts += 1;
        }
        Ok(())
    }

    /// Ends every session there is, and returns how many there were.
    pub async fn expire_all_sessions(&self) -> Result<usize> {
        let sessions = self.sessions().await?;
        for &session in &sessions {
            self.expire_session(session).await?;
        }
        Ok(sessions.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_server_comes_back_on_its_port_with_its_sessions_to_expire() {
        let mut server = ZooKeeper::start().await.unwrap();
        let address = server.address();
        let (session, _connection) = wire::open_session(address).await.unwrap();
        assert_eq!(server.sessions().await.unwrap(), vec![session]);

        server.restart().await.unwrap();
        assert_eq!(server.address(), address);
        // The session was in the transaction log, so the restarted server knows it until it expires.
        assert_eq!(server.sessions().await.unwrap(), vec![session]);

        server.expire_session(session).await.unwrap();
        assert_eq!(server.sessions().await.unwrap(), Vec::<i64>::new());
        assert!(
            server.expire_session(session).await.is_err(),
            "a forgotten session is an error"
        );
    }

    #[tokio::test]
    async fn a_paused_server_keeps_its_connections_and_answers_when_resumed() {
        let server = ZooKeeper::start().await.unwrap();
        server.pause().unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(200), server.sessions()).await;
        assert!(silent.is_err(), "a paused server answered");
        server.resume().unwrap();
        server.sessions().await.unwrap();
    }
}
