//! Containers in a containerd of the testkit's.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bismuth_testkit::{Containerd, Image, Registry, image};
use tokio::process::Command;

async fn ctr_ok(containerd: &Containerd, args: &[&str]) -> String {
    let mut command = Command::new("ctr");
    command
        .arg("--address")
        .arg(containerd.socket())
        .args(["--namespace", "bismuth"])
        .args(args);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let output = output.expect("ctr hangs").unwrap();
    assert!(
        output.status.success(),
        "ctr {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

async fn import(containerd: &Containerd, name: &str, image: &Image) {
    let archive = containerd.dir().join("image.tar");
    image.write_archive(&archive, name).unwrap();
    ctr_ok(containerd, &["images", "import", archive.to_str().unwrap()]).await;
}

#[tokio::test]
async fn a_container_survives_a_killed_containerd_and_is_gone_after_the_drop() {
    let mut containerd = Containerd::start().await.unwrap();
    import(
        &containerd,
        "docker.io/library/busybox:latest",
        &image::busybox().unwrap(),
    )
    .await;
    let command = "run --detach --runc-binary crun --cgroup /bismuth/testkit-drop \
                   docker.io/library/busybox:latest testkit-drop /bin/sleep 1000";
    let command: Vec<&str> = command.split(' ').collect();
    ctr_ok(&containerd, &command).await;
    let pid = pid_of(&containerd).await;

    containerd.restart().await.unwrap();
    assert_eq!(
        pid_of(&containerd).await,
        pid,
        "containerd's restart changed the container"
    );
    let inventory = containerd.inventory().await.unwrap();
    assert!(
        inventory["task"].contains("bismuth/testkit-drop"),
        "{inventory:?}"
    );
    assert!(
        inventory["image"].contains("bismuth/docker.io/library/busybox:latest"),
        "{inventory:?}"
    );

    let dir = containerd.dir().to_owned();
    let cgroup = std::path::Path::new("/sys/fs/cgroup/memory/bismuth/testkit-drop");
    let cgroup_v1 = cgroup.is_dir();
    drop(containerd);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(
        stat.is_empty() || stat.contains(") Z "),
        "the container lives: {stat}"
    );
    assert!(!dir.exists());
    assert!(!cgroup_v1 || !cgroup.exists(), "its cgroup is left");
}

async fn pid_of(containerd: &Containerd) -> String {
    let tasks = ctr_ok(containerd, &["tasks", "list", "--quiet=false"]).await;
    let line = tasks
        .lines()
        .find(|line| line.starts_with("testkit-drop"))
        .expect("no such task");
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn every_compression_and_kind_of_entry_unpacks() {
    let containerd = Containerd::start().await.unwrap();
    let registry = Registry::start().await.unwrap();
    let image = image::busybox().unwrap();
    registry
        .push("library/busybox:latest", &image)
        .await
        .unwrap();
    let reference = registry.reference("library/busybox:latest");
    ctr_ok(&containerd, &["images", "pull", "--plain-http", &reference]).await;
    let listed = ctr_ok(
        &containerd,
        &["run", "--rm", &reference, "testkit-pulled", "/bin/ls", "/"],
    )
    .await;
    assert!(listed.lines().any(|line| line == "proc"), "{listed}");

    let layered = layered();
    import(&containerd, "docker.io/library/layered:latest", &layered).await;
    let mount = containerd.scratch("mnt").unwrap();
    let mount = mount.to_str().unwrap();
    ctr_ok(
        &containerd,
        &["images", "mount", "docker.io/library/layered:latest", mount],
    )
    .await;
    let read = |path: &str| std::fs::read_to_string(format!("{mount}/{path}"));
    assert_eq!(read("kept").unwrap(), "1");
    assert_eq!(read("link").unwrap(), "1");
    assert_eq!(read("deep/new").unwrap(), "3");
    assert!(read("gone").is_err(), "a whiteout removed nothing");
    assert!(read("deep/old").is_err(), "an opaque directory hid nothing");
}

fn layered() -> Image {
    use bismuth_testkit::image::Compression;
    Image::builder()
        .file("kept", 0o644, b"1")
        .symlink("link", "kept")
        .file("gone", 0o644, b"1")
        .file("deep/old", 0o600, b"1")
        .layer()
        .compression(Compression::Gzip)
        .whiteout("gone")
        .layer()
        .compression(Compression::Zstd)
        .file("big", 0o644, &vec![7; 300_000])
        .opaque("deep")
        .file("deep/new", 0o644, b"3")
        .build()
        .unwrap()
}

#[tokio::test]
async fn pythons_image_has_it_where_the_official_ones_do() {
    let containerd = Containerd::start().await.unwrap();
    let python = tokio::task::spawn_blocking(image::python)
        .await
        .unwrap()
        .unwrap();
    import(&containerd, "docker.io/library/python:3.11", &python).await;
    let run = ["run", "--rm", "docker.io/library/python:3.11", "python"];
    let program = ["/usr/local/bin/python3", "-c"];
    let lines = ["import http.server; print('serves')"];
    let printed = ctr_ok(&containerd, &[&run[..], &program, &lines].concat()).await;
    assert_eq!(printed, "serves\n");
}
