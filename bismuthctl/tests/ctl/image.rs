//! Images, in a real containerd and from a real registry.

use bismuth_testkit::{Containerd, Registry, image};
use serde_json::json;

use crate::harness::{Ctl, ctl};

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
    let ctl = Ctl::default().with([
        (
            "BISMUTH_CONTAINERD",
            containerd.socket().display().to_string(),
        ),
        ("BISMUTH_CONTAINERD_NAMESPACE", "ctl".to_owned()),
    ]);
    let import = format!("image import {}", archive.display());
    assert_eq!(ctl.ok(&import).await, format!("{NAME}@{}", tiny.digest()));
    let list = ctl.run("image list").await;
    let line = list.row();
    assert_eq!(
        (line[0], line[1], line[4], line[5]),
        (NAME, tiny.digest(), "yes", "no")
    );

    let other = image::static_server().unwrap();
    registry
        .push("library/pulled:latest", &other)
        .await
        .unwrap();
    let mirror = format!("--registry-mirror docker.io={}", registry.url());
    let pulled = ctl.json(&format!("image pull pulled {mirror}")).await;
    assert_eq!(pulled[0]["image"], "docker.io/library/pulled:latest");
    assert_eq!(pulled[0]["digest"], other.digest());
    let listed = ctl.json("image list").await;
    let names = [&listed[0]["names"], &listed[1]["names"]];
    assert_eq!(
        names,
        [&json!(["docker.io/library/pulled:latest"]), &json!([NAME])]
    );
}

#[tokio::test]
async fn a_containerd_that_is_not_there_is_named() {
    let list = ctl("image list --containerd /nothing/there.sock").await;
    list.failed(1, &["/nothing/there.sock"]);
}
