//! The command line: flags, each with an environment variable.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bismuth_daemon::TelemetryArgs;
use bismuth_registry::ZooKeeperArgs;
use clap::Parser;

/// Where master keys are by default.
const MASTER_KEY_FILE: &str = "/etc/bismuth/master.keys";

/// What `--zookeeper` is for here, where it does not say where everything is.
const ZOOKEEPER_HELP: &str =
    "ZooKeeper servers, HOST:PORT separated by commas. Holds which node owns the embedded store";

/// Keys, blobs and secrets for the functions of one node.
#[derive(Clone, Debug, Parser)]
#[command(name = "svcprovider", version, mut_arg("zookeeper", |arg| arg.help(ZOOKEEPER_HELP)))]
pub struct Args {
    /// This node's address, by which it is provisioned.
    #[arg(long, env = "BISMUTH_NODE_IP", default_value = "127.0.0.1")]
    pub node_ip: Ipv4Addr,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub zookeeper: ZooKeeperArgs,

    /// Where embedded engines keep their data, and the operator's token is by default.
    #[arg(
        long,
        env = "BISMUTH_SERVICES_DIR",
        default_value = "/var/lib/bismuth-services"
    )]
    pub data_dir: PathBuf,

    /// Where keys and secrets are: `embedded`, for one node, or postgres://USER@HOST/DATABASE. Leave
    /// the password out: PGPASSWORD, PGPASSFILE and --records-file are not seen by others.
    #[arg(long, env = "BISMUTH_RECORDS", default_value = "embedded")]
    pub records: RecordsUrl,

    /// A file that holds the URL of --records.
    #[arg(
        long,
        env = "BISMUTH_RECORDS_FILE",
        value_name = "FILE",
        conflicts_with = "records"
    )]
    pub records_file: Option<PathBuf>,

    /// Where blobs are: `files`, for one node, or `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]`, with
    /// credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in the file AWS_SHARED_CREDENTIALS_FILE.
    #[arg(long, env = "BISMUTH_OBJECTS", default_value = "files")]
    pub objects: ObjectsUrl,

    /// Bytes of the largest blob.
    #[arg(long, env = "BISMUTH_MAX_BLOB_BYTES", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_blob_bytes: u64,

    /// Where bismuthd hands over the sockets of containers.
    #[arg(
        long,
        env = "BISMUTH_SVCPROVIDER_SOCKET",
        default_value = "/run/bismuth/svcprovider.sock"
    )]
    pub socket: PathBuf,

    /// Where /healthz, /readyz and /metrics answer.
    #[arg(
        long,
        env = "BISMUTH_SVCPROVIDER_ADMIN_LISTEN",
        default_value = "127.0.0.1:8012"
    )]
    pub admin_listen: SocketAddr,

    /// Where bismuthctl and bismuth-api connect; every request needs the operator's token.
    #[arg(
        long,
        env = "BISMUTH_OPERATOR_LISTEN",
        default_value = "127.0.0.1:9001"
    )]
    pub operator_listen: SocketAddr,

    /// The operator's token; made at the first start [default: operator.token in the data directory].
    #[arg(long, env = "BISMUTH_OPERATOR_TOKEN_FILE", value_name = "FILE")]
    pub operator_token_file: Option<PathBuf>,

    /// Master keys, the current one first, readable by their owner only. Not in the data directory, so
    /// that a copy of that opens no secret [default: /etc/bismuth/master.keys].
    #[arg(long, env = "BISMUTH_MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,

    /// Make a master key if the file is not there and nothing is sealed under another yet. Where several
    /// nodes share an engine they must have the same file: make it on one.
    #[arg(long, env = "BISMUTH_CREATE_MASTER_KEY")]
    pub create_master_key: bool,

    /// Start although no master key opens the secrets that are stored, and make one if told so: for when
    /// the keys are lost for good. What they sealed stays unreadable until `bismuthctl group purge`.
    #[arg(long)]
    pub accept_lost_secrets: bool,

    /// Threads that serve functions; the number of cores by default.
    #[arg(long, env = "BISMUTH_SVCPROVIDER_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// How long requests in flight may take to end after SIGTERM, or when their container is gone.
    #[arg(long, env = "BISMUTH_SVCPROVIDER_DRAIN", default_value = "10s", value_parser = humantime::parse_duration)]
    pub drain: Duration,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: TelemetryArgs,
}

impl Args {
    /// The file with the operator's token.
    pub fn operator_token_file(&self) -> PathBuf {
        let given = self.operator_token_file.clone();
        given.unwrap_or_else(|| self.data_dir.join("operator.token"))
    }

    /// The file with the master keys. Earlier versions had it in the data directory; one that is there is used until it is moved.
    pub fn master_key_file(&self) -> PathBuf {
        match &self.master_key_file {
            Some(given) => given.clone(),
            None => unless_moved(
                Path::new(MASTER_KEY_FILE),
                self.data_dir.join("master.keys"),
            ),
        }
    }
}

fn unless_moved(path: &Path, earlier: PathBuf) -> PathBuf {
    if earlier.exists() && !path.exists() {
        earlier
    } else {
        path.to_owned()
    }
}

/// Where keys and secrets are.
#[derive(Clone, PartialEq, Eq)]
pub enum RecordsUrl {
    /// In a file of the data directory.
    Embedded,
    /// In a database that speaks PostgreSQL's protocol; its URL.
    Postgres(String),
}

impl FromStr for RecordsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None if text == "embedded" => Ok(Self::Embedded),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(text.to_owned())),
            // Without the text: it may hold a password.
            _ => Err("expected `embedded` or postgres://USER@HOST/DATABASE".to_owned()),
        }
    }
}

/// Without the URL, which may hold a password.
impl std::fmt::Debug for RecordsUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Embedded => "Embedded",
            Self::Postgres(_) => "Postgres(…)",
        })
    }
}

/// Where blobs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectsUrl {
    /// In a directory of the data directory.
    Files,
    /// In a bucket; its URL.
    S3(String),
}

impl FromStr for ObjectsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None if text == "files" => Ok(Self::Files),
            Some(("s3", _)) => Ok(Self::S3(text.to_owned())),
            _ => Err(
                "expected `files` or s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
        let args = Args::parse_from(["svcprovider", "--data-dir", "/d"]);
        assert_eq!(args.operator_token_file(), Path::new("/d/operator.token"));
        assert_eq!(args.master_key_file(), Path::new(MASTER_KEY_FILE));
    }

    #[test]
    fn master_keys_that_an_earlier_version_put_beside_the_data_are_used_until_they_are_moved() {
        let dir = tempfile::tempdir().unwrap();
        let (path, earlier) = (dir.path().join("etc"), dir.path().join("master.keys"));
        assert_eq!(unless_moved(&path, earlier.clone()), path);
        std::fs::write(&earlier, "").unwrap();
        assert_eq!(unless_moved(&path, earlier.clone()), earlier);
        std::fs::write(&path, "").unwrap();
        assert_eq!(unless_moved(&path, earlier), path);
    }

    #[test]
    fn an_engine_is_named_and_its_password_never_shown() {
        let url = "postgres://me:canary@db/bismuth";
        let parsed: RecordsUrl = url.parse().unwrap();
        assert_eq!(parsed, RecordsUrl::Postgres(url.to_owned()));
        assert!(!format!("{parsed:?}").contains("canary"));
        let error = "mysql://me:canary@db".parse::<RecordsUrl>().unwrap_err();
        assert!(!error.contains("canary"), "{error}");
        assert!("ftp://x".parse::<ObjectsUrl>().is_err());
        assert_eq!(
            "s3://b/p".parse(),
            Ok(ObjectsUrl::S3("s3://b/p".to_owned()))
        );
    }
}
