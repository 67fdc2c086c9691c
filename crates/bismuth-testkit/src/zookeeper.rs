//! A real ZooKeeper, from Debian's `zookeeper` package.
//!
//! ```text
//! start ─► serving ─┬─ pause ──► silent ──── resume ─► serving     connections stay, nothing answers
//!                   ├─ kill ───► gone ────── restart ► serving     same port, same data
//!                   ├─ stop ───► gone ────── restart ► serving
//!                   └─ expire_session(id): the server forgets that session, as if its timeout had passed
//! ```

mod ensemble;
mod wire;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use ensemble::Ensemble;

use crate::process::{Process, Program};
use crate::{eventually, ports, run};

/// A client comes back within milliseconds, so that it wins against us now and then, and not often.
const EXPIRE_ATTEMPTS: u32 = 20;
/// A JVM on a busy two-core machine needs seconds to come up.
const START_BOUND: Duration = Duration::from_secs(60);
/// A server that is asked between listening and having its database forgets the connection
/// (`ZooKeeperServer.removeCnxn` of 3.8 fails there with a null pointer), so it must be asked anew.
const EARLY_ANSWER_BOUND: Duration = Duration::from_secs(1);
/// Closing its transaction log is quick; the JVM's shutdown hooks take most of it.
const STOP_BOUND: Duration = Duration::from_secs(15);
/// Sessions expire between 2 and 20 ticks. With half a second they expire whenever a build runs beside the test.
const DEFAULT_TICK: Duration = Duration::from_secs(2);

/// One ZooKeeper server on a loopback port, with its own data directory.
#[derive(Debug)]
pub struct ZooKeeper {
    dir: PathBuf,
    port: u16,
    process: Option<Process>,
}

/// Settings of a server before it starts.
#[derive(Debug, Clone)]
pub struct Builder {
    tick: Duration,
}

impl Builder {
    /// The unit of ZooKeeper's timeouts: sessions live 2 to 20 ticks. Two seconds by default.
    #[must_use]
    pub fn tick_time(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// Starts the server and waits until it serves.
    ///
    /// # Errors
    ///
    /// When ZooKeeper is not installed or does not serve within a minute.
    pub async fn start(self) -> Result<ZooKeeper> {
        let dir = run::subdir("zookeeper")?;
        let port = ports::reserve()?;
        let mut server = ZooKeeper::configure(dir, port, self.tick, "")?;
        server.launch()?;
        server.serving().await?;
        Ok(server)
    }
}

impl ZooKeeper {
    /// A server with default settings that is not started yet.
    #[must_use]
    pub fn builder() -> Builder {
        Builder { tick: DEFAULT_TICK }
    }

    /// Starts a server with default settings.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// Starts `size` servers that form one ensemble.
    ///
    /// # Errors
    ///
    /// When a server does not start, or no leader is elected within a minute.
    pub async fn ensemble(size: u8) -> Result<Ensemble> {
        Ensemble::start(size).await
    }

    /// Its directory: configuration, data, log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where clients connect, as `HOST:PORT`.
    #[must_use]
    pub fn connect_string(&self) -> String {
        self.address().to_string()
    }

    /// Kills the server (`SIGKILL`). Harmless when it is down.
    ///
    /// # Errors
    ///
    /// When it does not die.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await.map(drop),
            None => Ok(()),
        }
    }

    /// Ends the server tidily (`SIGTERM`). Harmless when it is down.
    ///
    /// # Errors
    ///
    /// When it does not end within fifteen seconds.
    pub async fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.terminate(STOP_BOUND).await.map(drop),
            None => Ok(()),
        }
    }

    /// Starts it again on the same port with the same data, killing it first if it runs.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        self.launch()?;
        self.serving().await
    }

    /// Freezes the server: connections stay open, nothing is answered.
    ///
    /// # Errors
    ///
    /// When it is down.
    pub fn pause(&self) -> Result<()> {
        self.process()?.pause()
    }

    /// Undoes [`pause`](Self::pause).
    ///
    /// # Errors
    ///
    /// When it is down.
    pub fn resume(&self) -> Result<()> {
        self.process()?.resume()
    }

    /// Ids of the sessions that the server knows (as `dump` prints them).
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn sessions(&self) -> Result<Vec<i64>> {
        Ok(wire::session_ids(
            &wire::four_letter_word(self.address(), "dump").await?,
        ))
    }

    /// Ends a session as if its timeout had passed: its ephemeral nodes go, and its client is told `Expired`.
    ///
    /// # Errors
    ///
    /// When the server does not answer or does not know the session.
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
    ///
    /// # Errors
    ///
    /// As [`expire_session`](Self::expire_session).
    pub async fn expire_all_sessions(&self) -> Result<usize> {
        let sessions = self.sessions().await?;
        for &session in &sessions {
            self.expire_session(session).await?;
        }
        Ok(sessions.len())
    }

    /// Resident memory, descriptors, log of the server process.
    ///
    /// # Errors
    ///
    /// When it is down.
    pub fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .context("this ZooKeeper server is down")
    }

    /// Writes the configuration; `members` holds the `server.N=` lines of an ensemble.
    fn configure(dir: PathBuf, port: u16, tick: Duration, members: &str) -> Result<Self> {
        let data = dir.join("data");
        let conf = dir.join("conf");
        for path in [&data, &conf] {
            fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        }
        let settings = format!(
            "tickTime={}\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPortAddress=127.0.0.1\nclientPort={port}\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n{members}",
            tick.as_millis(),
            data.display(),
        );
        let log4j = "log4j.rootLogger=INFO, OUT\n\
                     log4j.logger.org.apache.zookeeper.server.NIOServerCnxn=ERROR\n\
                     log4j.appender.OUT=org.apache.log4j.ConsoleAppender\n\
                     log4j.appender.OUT.layout=org.apache.log4j.PatternLayout\n\
                     log4j.appender.OUT.layout.ConversionPattern=%d{ISO8601} %p %c{1} %m%n\n";
        write(&conf.join("zoo.cfg"), &settings)?;
        write(&conf.join("log4j.properties"), log4j)?;
        Ok(Self {
            dir,
            port,
            process: None,
        })
    }

    fn launch(&mut self) -> Result<()> {
        let conf = self.dir.join("conf");
        // A small heap and the simplest compiler and collector: several of these run beside a build.
        // Data outlives a killed process in the page cache, so forcing it to disk would only cost time.
        let program = Program::new("zookeeper", "java", &self.dir)
            .args(["-Xmx128m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .args(["-Dzookeeper.forceSync=no", "-Dzookeeper.skipACL=yes", "-Djava.net.preferIPv4Stack=true"])
            .arg("-cp")
            .arg(format!("{}:/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-log4j12.jar:/usr/share/java/log4j-1.2.jar", conf.display()))
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(conf.join("zoo.cfg"));
        self.process = Some(program.spawn()?);
        Ok(())
    }

    /// Waits until the server answers as standalone, leader or follower.
    async fn serving(&self) -> Result<()> {
        let process = self.process()?;
        let ready = eventually::within(START_BOUND, async || {
            if let Err(error) = process.check_alive() {
                return Ok(Err(error));
            }
            let asked = wire::four_letter_word(self.address(), "srvr");
            let Ok(answer) = tokio::time::timeout(EARLY_ANSWER_BOUND, asked).await else {
                return Err("it accepts connections and does not answer".to_owned());
            };
            match answer {
                Ok(answer) if answer.contains("Mode: ") => Ok(Ok(())),
                Ok(answer) => Err(format!(
                    "it answers {:?}",
                    answer.lines().next().unwrap_or_default()
                )),
                Err(error) => Err(format!("{error:#}")),
            }
        });
        match ready.await {
            Ok(answer) => answer,
            Err(reason) => bail!(
                "ZooKeeper does not serve: {reason}; its log ends:\n{}",
                process.log_tail()
            ),
        }
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        self.process = None;
        if let Err(error) = run::remove(&self.dir) {
            eprintln!("ZooKeeper's directory: {error:#}");
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
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

    #[tokio::test]
    async fn three_servers_elect_one_leader() {
        let ensemble = ZooKeeper::ensemble(3).await.unwrap();
        assert_eq!(ensemble.connect_string().split(',').count(), 3);
        let mut leaders = 0;
        for server in ensemble.servers() {
            let status = wire::four_letter_word(server.address(), "srvr")
                .await
                .unwrap();
            leaders += usize::from(status.contains("Mode: leader"));
        }
        assert_eq!(leaders, 1);
    }
}
