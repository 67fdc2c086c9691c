//! A start on existing data: the claim and the master keys.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bismuth_store::records::embedded::Embedded;
use bismuth_store::secrets::{Keyring, Secrets};
use clap::Parser as _;
use svcprovider::{Args, Service};

const NODE: &str = "10.0.0.7";
/// So long a ZooKeeper that says nothing is waited for, at least, by whoever asks it anything.
const WAITED: Duration = Duration::from_millis(800);

/// Starts on the data in `dir`, with a ZooKeeper that says nothing; the words of the error if it does not.
async fn start(dir: &Path, more: &[&str]) -> Result<Service, String> {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let zookeeper = silent.local_addr().unwrap().to_string();
    let path = |name: &str| dir.join(name).display().to_string();
    let (data, socket, keys) = (path("data"), path("socket"), path("keys/master.keys"));
    let any = "127.0.0.1:0";
    let flags = [
        ["--data-dir", &data],
        ["--socket", &socket],
        ["--master-key-file", &keys],
        ["--zookeeper", &zookeeper],
        ["--node-ip", NODE],
        ["--admin-listen", any],
        ["--operator-listen", any],
    ];
    let args = ["svcprovider"].iter().chain(flags.as_flattened());
    let built = Service::build(Args::parse_from(args.chain(more))).await;
    built.map_err(|error| bismuth_base::chain(&error))
}

/// A data directory that this node was served from before.
fn served_before() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("store"), "a-store").unwrap();
    fs::write(data.join("claimed"), NODE).unwrap();
    dir
}

#[tokio::test]
async fn a_store_that_was_served_before_is_served_without_waiting_for_zookeeper() {
    let dir = served_before();
    let began = Instant::now();
    start(dir.path(), &["--create-master-key"]).await.unwrap();
    assert!(began.elapsed() < WAITED, "{:?}", began.elapsed());

    // A copy that came to another node.
    fs::write(dir.path().join("data/claimed"), "10.0.0.8").unwrap();
    let began = Instant::now();
    let error = start(dir.path(), &[]).await.map(drop).unwrap_err();
    assert!(error.contains("ZooKeeper"), "{error}");
    assert!(began.elapsed() > WAITED, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_start_without_the_master_keys_of_what_is_stored_is_refused() {
    let dir = served_before();
    let (data, keys) = (dir.path().join("data"), dir.path().join("keys/master.keys"));
    drop(start(dir.path(), &["--create-master-key"]).await.unwrap());
    {
        let records = Arc::new(Embedded::open(&data.join("records")).unwrap());
        let secrets = Secrets::new(records, Keyring::load(&keys).unwrap());
        let name = "name".parse().unwrap();
        secrets.set("group", &name, b"value").await.unwrap();
    }
    let refused = async |more: &[&str]| start(dir.path(), more).await.map(drop).unwrap_err();

    // Lost, with the flag of the first start left on.
    fs::remove_file(&keys).unwrap();
    let error = refused(&["--create-master-key"]).await;
    assert!(error.contains("put the file back"), "{error}");
    assert!(!keys.exists());

    // Another.
    Keyring::create(&keys).unwrap();
    let error = refused(&["--create-master-key"]).await;
    assert!(error.contains("no master key in"), "{error}");
    start(dir.path(), &["--accept-lost-secrets"]).await.unwrap();
}
