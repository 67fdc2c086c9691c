//! Images, in a real containerd and from a real registry.

use bismuth_testkit::{Containerd, Registry, image};
use serde_json::json;

use crate::harness::{command, ctl, run};

const NAME: &str = "docker.io/library/tiny:latest";

#[tokio::test]
async fn images_are_imported_pulled_and_listed() {
    let (containerd, registry) = (
        Containerd::start().await.unwrap(),
        Registry::start().await.unwrap(),
    );
    let tiny = image::busybox().unwrap();
    let archive = containerd.scratch("archive").unwrap().join("tiny.tar");
    tiny.write_archive(&archive, NAME).unwrap();
    let socket = containerd.socket();
    let on = |args: &[&str]| {
        let mut command = command(&[&["image"], args].concat());
        command
            .env("BISMUTH_CONTAINERD", &socket)
            .env("BISMUTH_CONTAINERD_NAMESPACE", "ctl");
        command
    };
    let imported = run(&mut on(&["import", archive.to_str().unwrap()])).await;
    assert_eq!(imported.ok(), format!("{NAME}@{}", tiny.digest()));
    let list = run(&mut on(&["list"])).await;
    let line: Vec<&str> = list
        .ok()
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(
        (line[0], line[1], line[4], line[5]),
        (NAME, tiny.digest(), "yes", "no")
    );

    let other = image::static_server().unwrap();
    registry
        .push("library/pulled:latest", &other)
        .await
        .unwrap();
    let mirror = format!("docker.io={}", registry.url());
    let pulled = run(&mut on(&[
        "pull",
        "pulled",
        "--registry-mirror",
        &mirror,
        "-o",
        "json",
    ]))
    .await
    .json();
    assert_eq!(pulled[0]["image"], "docker.io/library/pulled:latest");
    assert_eq!(pulled[0]["digest"], other.digest());
    let listed = run(&mut on(&["list", "-o", "json"])).await.json();
    let names = [&listed[0]["names"], &listed[1]["names"]];
    assert_eq!(
        names,
        [&json!(["docker.io/library/pulled:latest"]), &json!([NAME])]
    );
}

#[tokio::test]
async fn a_containerd_that_is_not_there_is_named() {
    ctl(&["image", "list", "--containerd", "/nothing/there.sock"])
        .await
        .failed(1, &["/nothing/there.sock"]);
}
