//! Importing images from files, and images that other tools brought.

use std::path::Path;

use bismuth_containerd::images::{Images as _, PreparedImage};
use bismuth_testkit::Registry;
use bismuth_testkit::image::Compression;

use crate::harness::{Harness, name, skopeo};
use crate::pull::{layered, layered_with};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn is_layered(harness: &Harness, image: &PreparedImage) {
    let files = harness.mounted(image);
    assert_eq!(files.names(""), ["dir", "keep", "top"]);
    assert_eq!(files.names("dir"), ["new"]);
}

async fn assert_refused(harness: &Harness, path: &Path, words: &str) {
    let error = harness.store.import(path, None).await.unwrap_err();
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn an_oci_layout_is_imported_from_a_directory_and_from_a_tar() {
    let (harness, image) = (Harness::start().await, layered());
    let (dir, tar) = (
        harness.server.dir().join("layout"),
        harness.server.dir().join("layout.tar"),
    );
    image
        .write_layout(&dir, "docker.io/demo/from-dir:1")
        .unwrap();
    image
        .write_archive(&tar, "docker.io/demo/from-tar:1")
        .unwrap();

    let from_dir = harness.store.import(&dir, None).await.unwrap();
    let from_tar = harness.store.import(&tar, None).await.unwrap();
    let renamed = harness
        .store
        .import(&tar, Some(&name("demo/renamed:2")))
        .await
        .unwrap();
    for (imported, reference) in [
        (from_dir, "from-dir:1"),
        (from_tar, "from-tar:1"),
        (renamed, "renamed:2"),
    ] {
        assert_eq!(
            imported[0].reference.whole(),
            format!("docker.io/demo/{reference}")
        );
        assert_eq!(imported[0].digest.as_str(), image.digest());
        // No registry is asked: there is none.
        is_layered(
            &harness,
            &harness.ensure(&format!("demo/{reference}")).await.unwrap(),
        );
    }
    let listed = harness.store.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].names.len(), 3);
    assert!(
        listed[0].prepared
            && !listed[0].pulled
            && listed[0].content_bytes > 0
            && listed[0].unpacked_bytes > 0,
        "{listed:?}"
    );
}

#[tokio::test]
async fn an_archive_with_an_invalid_name_is_refused_unless_a_name_is_given() {
    let harness = Harness::start().await;
    let layout = harness.server.dir().join("layout");
    layered_with(Compression::Gzip)
        .write_layout(&layout, "Upper/a:1")
        .unwrap();
    assert_refused(&harness, &layout, "\"Upper/a:1\" is no image name").await;
    let lower = name("upper/a:1");
    let image = harness.store.import(&layout, Some(&lower)).await.unwrap();
    is_layered(&harness, &image[0]);
}

#[tokio::test]
async fn what_skopeo_writes_is_imported_whatever_its_format() {
    let harness = Harness::start().await;
    let dir = harness.server.dir();
    let source = dir.join("source");
    layered_with(Compression::Gzip)
        .write_layout(&source, "source")
        .unwrap();
    let from = format!("oci:{}", text(&source));

    let oci = dir.join("skopeo-oci");
    skopeo(&[&from, &format!("oci:{}:tag-only", text(&oci))]);
    assert_refused(&harness, &oci, "does not say its image's name").await;
    let image = harness
        .store
        .import(&oci, Some(&name("demo/skopeo:oci")))
        .await
        .unwrap();
    is_layered(&harness, &image[0]);

    let docker = dir.join("skopeo-docker.tar");
    skopeo(&[
        &from,
        &format!(
            "docker-archive:{}:docker.io/demo/skopeo:docker",
            text(&docker)
        ),
    ]);
    let image = harness.store.import(&docker, None).await.unwrap();
    assert_eq!(image[0].reference.whole(), "docker.io/demo/skopeo:docker");
    is_layered(&harness, &image[0]);
}

#[tokio::test]
async fn dockers_own_format_is_pulled_from_a_registry() {
    let (harness, registry) = (Harness::start().await, Registry::start().await.unwrap());
    let source = harness.server.dir().join("source");
    layered_with(Compression::Gzip)
        .write_layout(&source, "source")
        .unwrap();
    let target = registry.reference("demo/docker:1");
    skopeo(&[
        "--format",
        "v2s2",
        "--dest-tls-verify=false",
        &format!("oci:{}", text(&source)),
        &format!("docker://{target}"),
    ]);
    is_layered(&harness, &harness.ensure(&target).await.unwrap());
    assert!(
        harness
            .ctr(&["images", "ls"])
            .contains("application/vnd.docker.distribution.manifest.v2+json")
    );
}

#[tokio::test]
async fn an_image_that_ctr_imported_is_unpacked_without_a_registry() {
    let harness = Harness::start().await;
    let tar = harness.server.dir().join("image.tar");
    layered()
        .write_archive(&tar, "docker.io/demo/by-ctr:1")
        .unwrap();
    harness.ctr(&["images", "import", "--no-unpack", text(&tar)]);
    assert_eq!(harness.contents().await.snapshots.len(), 0);
    is_layered(&harness, &harness.ensure("demo/by-ctr:1").await.unwrap());
    is_layered(
        &harness,
        &harness
            .ensure(&format!("demo/by-ctr@{}", layered().digest()))
            .await
            .unwrap(),
    );
}

#[tokio::test]
async fn a_damaged_or_foreign_file_is_refused_and_nothing_stays() {
    let (harness, image) = (Harness::start().await, layered());
    let dir = harness.server.dir().join("layout");
    image
        .write_layout(&dir, "docker.io/demo/damaged:1")
        .unwrap();
    let layer = &image.blobs()[3];
    let blob = dir.join("blobs/sha256").join(layer.hex());
    std::fs::write(&blob, vec![b'x'; usize::try_from(layer.size()).unwrap()]).unwrap();
    let wanted = format!("should be {}", layer.digest());
    assert_refused(&harness, &dir, &wanted).await;
    std::fs::write(&blob, b"short").unwrap();
    assert_refused(&harness, &dir, "has 5 bytes where its descriptor says").await;
    assert_refused(&harness, Path::new("/proc"), "neither an OCI layout").await;
    let left = harness.contents().await;
    assert!(left.is_empty(), "{left:?}");
}
