//! What functions keep, asked of a svcprovider itself: the program, built, with embedded engines.

use std::process::Stdio;

use bismuth_testkit::cluster::Services;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{Ran, SOON, World, run};

struct Real {
    world: World,
    services: Services,
    dir: TempDir,
}

impl Real {
    async fn start() -> Self {
        let (world, dir) = (World::start().await, tempfile::tempdir().unwrap());
        world.ctl(&["bootstrap"]).await.ok();
        let zookeeper = world.zookeeper.connect_string();
        let services = Services::start(dir.path(), &zookeeper, "default").await;
        Self {
            services: services.unwrap(),
            world,
            dir,
        }
    }

    fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = self.world.command(args);
        command.envs(self.services.operator());
        command
    }

    async fn ctl(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args)).await
    }

    /// With these bytes on standard input.
    async fn piped(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input).await.unwrap();
        drop(stdin);
        let output = tokio::time::timeout(SOON, child.wait_with_output());
        let output = output.await.expect("it ends").unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

async fn keys(real: &Real) {
    let kv = async |args: &[&str]| real.ctl(&[&["kv"], args, &["-g", "shop"]].concat()).await;
    let first = kv(&["put", "cart/1 ü?", "three"]).await.ok().to_owned();
    assert_eq!(kv(&["get", "cart/1 ü?"]).await.stdout, "three");
    kv(&["put", "cart/1 ü?", "x", "--if-absent"])
        .await
        .failed(1, &["the condition does not hold"]);
    let second = ["put", "cart/1 ü?", "four", "--if-match", &first];
    kv(&second).await.ok();
    kv(&second).await.failed(1, &["does not hold"]);
    assert_eq!(kv(&["incr", "hits", "--by", "5"]).await.ok(), "5");
    let listed = kv(&["list", "-o", "json"]).await.json();
    let size = |n: usize| (listed[n]["key"].clone(), listed[n]["size"].clone());
    assert_eq!(size(0), (json!("cart/1 ü?"), json!(4)));
    assert_eq!(size(1), (json!("hits"), json!(1)));
    assert_eq!(kv(&["list"]).await.ok().lines().count(), 3);
    kv(&["delete", "hits"]).await.ok();
    kv(&["get", "hits"]).await.failed(3, &[]);
}

async fn blobs(real: &Real) {
    let blob = async |args: &[&str]| real.ctl(&[&["blob"], args, &["-g", "shop"]].concat()).await;
    let large: Vec<u8> = (0..3 << 20).map(|n: u32| (n >> 7) as u8).collect();
    let source = real.dir.path().join("source");
    std::fs::write(&source, &large).unwrap();
    let source = format!("@{}", source.display());
    let put = ["blob", "put", "a/b c", "-g", "shop"];
    real.piped(&put, b"old").await.ok();
    let typed = ["put", "a/b c", &source, "--content-type", "image/png"];
    let etag = blob(&typed).await.ok().to_owned();
    real.piped(&["blob", "put", "text", "-g", "shop"], b"abc")
        .await
        .ok();
    let listed: Value = blob(&["list", "-o", "json"]).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(listed[1]["sha256"], abc);
    assert_eq!(
        (&listed[0]["etag"], &listed[0]["content_type"]),
        (&json!(etag), &json!("image/png"))
    );
    let table = blob(&["list", "--prefix", "te"]).await.ok().to_owned();
    assert!(table.contains(abc) && table.lines().count() == 2, "{table}");
    let out = real.dir.path().join("out");
    let get = ["get", "a/b c", "-f", out.to_str().unwrap(), "-o", "json"];
    assert_eq!(blob(&get).await.json()["sha256"], listed[0]["sha256"]);
    assert!(std::fs::read(&out).unwrap() == large);
    blob(&["delete", "a/b c"]).await.ok();
    blob(&["delete", "a/b c"]).await.failed(3, &[]);
}

async fn secrets(real: &Real) {
    let set = ["secret", "set", "shop", "db/password"];
    assert_eq!(real.piped(&set, b"one").await.ok(), "1");
    let rotate = ["secret", "rotate", "shop", "db/password"];
    assert_eq!(real.piped(&rotate, b"two").await.ok(), "2");
    let rewrapped = real.ctl(&["secret", "rewrap"]).await.ok().to_owned();
    assert!(rewrapped.contains("of 0 groups"), "{rewrapped}");
    let list = ["secret", "list", "shop", "-o", "json"];
    let listed = real.ctl(&list).await.json();
    assert_eq!(listed[0]["name"], "db/password");
    assert_eq!(listed[0]["version"], 2);
    let delete = ["secret", "delete", "shop", "none"];
    real.ctl(&delete).await.failed(3, &["no secret \"none\""]);
}

async fn groups(real: &Real) {
    let shown = real.ctl(&["group", "show", "shop", "-o", "json"]).await;
    let shown = shown.json();
    assert_eq!(
        (&shown["kv"]["count"], &shown["blob"], &shown["secrets"]),
        (&json!(1), &json!({"bytes": 7, "count": 1}), &json!(1))
    );
    let listed = real.ctl(&["group", "list", "-o", "json"]).await.json();
    assert_eq!(listed, json!([shown]));
    let purged = real.ctl(&["group", "purge", "shop", "-o", "json"]).await;
    assert_eq!(purged.json(), json!({"kv": 1, "blobs": 1, "secrets": 1}));
    real.ctl(&["group", "show", "shop"]).await.failed(3, &[]);
}

async fn the_end_of_a_function(real: &Real) {
    let create = ["create-function", "alpine", "exec:/bin/ls"];
    let id = real.ctl(&create).await.ok().to_owned();
    real.ctl(&["kv", "put", "k", "v", "-g", &id]).await.ok();
    let delete = ["delete-function", &id, "--purge", "-o", "json"];
    let deleted = real.ctl(&delete).await.json();
    let purged = json!({"kv": 1, "blobs": 0, "secrets": 0});
    assert_eq!(deleted["purged"], purged);
}

#[tokio::test]
async fn operators_work_on_what_functions_keep() {
    let real = Real::start().await;
    keys(&real).await;
    blobs(&real).await;
    secrets(&real).await;
    groups(&real).await;
    the_end_of_a_function(&real).await;
}
