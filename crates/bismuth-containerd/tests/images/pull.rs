//! Pulls that succeed.

use bismuth_containerd::images::{
    ImageError, Images as _, Phase, PreparedImage, PullPolicy, PullProgress, RegistryMirror,
};
use bismuth_testkit::image::{Compression, architecture};
use bismuth_testkit::{Image, Registry};
use tokio::sync::watch;

use crate::faulty_registry::FaultyRegistry;
use crate::harness::{Harness, ensure, name, store};

/// Three layers in three compressions: the second removes a file and empties a directory of the first.
pub fn layered() -> Image {
    layered_with(Compression::Zstd)
}

/// The same with another compression of the second layer.
pub fn layered_with(second: Compression) -> Image {
    Image::builder()
        .compression(Compression::Gzip)
        .file("keep", 0o644, b"kept")
        .file("gone", 0o644, b"to be removed")
        .file("dir/old", 0o644, b"to be hidden")
        .layer()
        .compression(second)
        .whiteout("gone")
        .opaque("dir")
        .file("dir/new", 0o644, b"new")
        .layer()
        .file("top", 0o644, b"uncompressed")
        .env("PATH", "/bin")
        .entrypoint(&["/bin/run"])
        .cmd(&["--all"])
        .working_dir("/dir")
        .user("7:8")
        .build()
        .unwrap()
}

#[tokio::test]
async fn an_image_pulled_by_tag_is_unpacked_and_known_to_containerds_tools() {
    let registry = Registry::start().await.unwrap();
    let digest = registry.push("demo/layered:1", &layered()).await.unwrap();
    let harness = Harness::start().await;
    let reference = registry.reference("demo/layered:1");
    let image = harness.ensure(&reference).await.unwrap();

    assert_eq!(
        (image.digest.as_str(), image.manifest_digest.as_str()),
        (digest.as_str(), digest.as_str())
    );
    assert_eq!(image.lower_dirs.len(), 3);
    assert_eq!(image.config.env, ["PATH=/bin"]);
    assert_eq!(image.config.entrypoint, ["/bin/run"]);
    assert_eq!(image.config.cmd, ["--all"]);
    assert_eq!(image.config.working_dir, "/dir");
    assert_eq!(image.config.user, "7:8");

    let files = harness.mounted(&image);
    assert_eq!(files.names(""), ["dir", "keep", "top"]);
    assert_eq!(files.names("dir"), ["new"]);
    assert_eq!(files.read("top").as_deref(), Some("uncompressed"));

    assert!(
        harness
            .ctr(&["images", "ls", "-q"])
            .lines()
            .any(|line| line == reference)
    );
    let check = harness.ctr(&["images", "check"]);
    assert!(
        check.contains("complete (4/4)") && check.trim_end().ends_with("true"),
        "{check}"
    );
    let leases = harness.contents().await.leases;
    assert_eq!(
        leases.into_iter().collect::<Vec<_>>(),
        [format!("bismuth.image.{digest}")],
        "the pull's own lease is gone"
    );
}

#[tokio::test]
async fn a_mirror_of_docker_io_is_asked_for_the_library_path_and_a_digest_is_enough() {
    let registry = Registry::start().await.unwrap();
    let digest = registry
        .push("library/alpine:latest", &layered())
        .await
        .unwrap();
    let mirror: RegistryMirror = format!("docker.io={}", registry.url()).parse().unwrap();
    let harness = Harness::start_with(|config| config.registries.add_mirrors([mirror])).await;

    let tagged = harness.ensure("alpine").await.unwrap();
    assert_eq!(tagged.reference.whole(), "docker.io/library/alpine:latest");
    let pinned = harness.ensure(&format!("alpine@{digest}")).await.unwrap();
    assert_eq!(
        (pinned.digest.as_str(), &pinned.lower_dirs),
        (digest.as_str(), &tagged.lower_dirs)
    );
    let names = harness.contents().await.images;
    assert!(names.contains("docker.io/library/alpine:latest"));
    assert!(names.contains(&format!("docker.io/library/alpine@{digest}")));
}

#[tokio::test]
async fn only_the_image_for_this_machine_is_pulled_from_an_index() {
    let here = Image::builder()
        .file("for", 0o644, architecture().as_bytes())
        .build()
        .unwrap();
    let other = Image::builder()
        .file("for", 0o644, b"another machine")
        .architecture("s390x")
        .build()
        .unwrap();
    let index = Image::index(&[("s390x", other.clone()), (architecture(), here.clone())]).unwrap();
    let registry = FaultyRegistry::start().await;
    registry.put("multi", &index);
    let harness = Harness::start().await;
    let image = harness
        .ensure(&registry.reference("demo/multi:multi"))
        .await
        .unwrap();
    assert_eq!(
        (image.digest.as_str(), image.manifest_digest.as_str()),
        (index.digest(), here.digest())
    );
    assert_eq!(
        harness.mounted(&image).read("for").as_deref(),
        Some(architecture())
    );
    for blob in other.blobs() {
        assert_eq!(registry.count(blob.digest()), 0, "{:?}", registry.log());
    }

    let only_other = Image::index(&[("s390x", other)]).unwrap();
    registry.put("foreign", &only_other);
    let error = harness
        .ensure(&registry.reference("demo/multi:foreign"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("it has: linux/s390x"), "{error}");
}

#[tokio::test]
async fn ten_concurrent_calls_for_an_image_pull_each_blob_once() {
    let image = layered();
    let registry = FaultyRegistry::start().await;
    registry.put("a", &image);
    registry.put("b", &image);
    let harness = Harness::start().await;
    let (a, b) = (
        registry.reference("demo/x:a"),
        registry.reference("demo/x:b"),
    );
    let wanted = (0..10).map(|i| harness.ensure(if i % 2 == 0 { &a } else { &b }));
    let images = futures_util::future::try_join_all(wanted).await.unwrap();
    assert!(
        images
            .iter()
            .all(|one| one.lower_dirs == images[0].lower_dirs)
    );
    for blob in image.blobs() {
        assert_eq!(registry.count(blob.digest()), 1, "{:?}", registry.log());
    }
    assert_eq!(registry.count("/manifests/a"), 1);
    assert_eq!(registry.count("/manifests/b"), 1);
}

#[tokio::test]
async fn progress_ends_with_all_layers_and_all_bytes() {
    let image = layered();
    let (_registry, reference) = FaultyRegistry::serving(&image).await;
    let harness = Harness::start().await;
    let (sender, progress) = watch::channel(PullProgress::default());
    harness
        .store
        .ensure(&name(&reference), PullPolicy::IfMissing, sender)
        .await
        .unwrap();
    let end = progress.borrow().clone();
    let bytes: u64 = image.blobs()[1..]
        .iter()
        .map(bismuth_testkit::image::Blob::size)
        .sum();
    assert_eq!(
        (end.phase, end.layers, end.layers_done),
        (Phase::Ready, 3, 3)
    );
    assert_eq!((end.bytes_done, end.bytes_total), (bytes, bytes));
}

#[tokio::test]
async fn an_image_that_is_there_needs_no_registry_after_restarts() {
    let mut registry = Registry::start().await.unwrap();
    registry.push("demo/layered:1", &layered()).await.unwrap();
    let mut harness = Harness::start().await;
    let reference = registry.reference("demo/layered:1");
    let before = harness.ensure(&reference).await.unwrap();
    registry.kill().await.unwrap();
    harness.server.restart().await.unwrap();
    harness.restart_store();
    assert_eq!(harness.ensure(&reference).await.unwrap(), before);
}

#[tokio::test]
async fn a_tag_that_moved_is_followed_only_when_asked_to_always_pull() {
    let (old, new) = (
        layered(),
        Image::builder().file("new", 0o644, b"new").build().unwrap(),
    );
    let registry = FaultyRegistry::start().await;
    registry.put("latest", &old);
    let harness = Harness::start().await;
    let reference = registry.reference("demo/x:latest");
    let digest = async |policy| {
        let image = ensure(&harness.store, &reference, policy).await.unwrap();
        image.digest.to_string()
    };
    assert_eq!(digest(PullPolicy::Always).await, old.digest());
    registry.put("latest", &new);
    assert_eq!(digest(PullPolicy::IfMissing).await, old.digest());
    assert_eq!(digest(PullPolicy::Always).await, new.digest());
    assert_eq!(digest(PullPolicy::IfMissing).await, new.digest());
    // The old one is still kept, for the containers that run from it.
    let listed = harness.store.list().await.unwrap();
    let old = listed
        .iter()
        .find(|image| image.digest.as_str() == old.digest())
        .unwrap();
    assert!(
        old.names.is_empty() && old.prepared && old.pulled && old.last_used.is_some(),
        "{old:?}"
    );
}

#[tokio::test]
async fn a_password_from_dockers_config_authenticates() {
    let (registry, reference) = FaultyRegistry::serving(&layered()).await;
    registry.require_authorization("Basic YWxpY2U6c2VjcmV0"); // alice:secret
    let harness = Harness::start().await;
    let error = harness.ensure(&reference).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("not authorized to pull {reference} from http://")),
        "{error}"
    );

    let login = r#"{"auth":"YWxpY2U6c2VjcmV0"}"#;
    pull_with(&harness, &reference, login).await.unwrap();
}

/// Pulls with this entry in Docker's config.json for the image's registry.
async fn pull_with(
    harness: &Harness,
    reference: &str,
    login: &str,
) -> Result<PreparedImage, ImageError> {
    let file = harness.server.dir().join("config.json");
    let host = reference.split('/').next().unwrap();
    std::fs::write(&file, format!(r#"{{"auths":{{"{host}":{login}}}}}"#)).unwrap();
    let store = store(&harness.containerd, |config| {
        config.credentials_file = Some(file);
    });
    ensure(&store, reference, PullPolicy::IfMissing).await
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_the_token_servers_error_is_reported() {
    let (registry, reference) = FaultyRegistry::serving(&layered()).await;
    registry.require_authorization("Bearer open");
    let harness = Harness::start().await;
    let anonymous = harness.ensure(&reference).await.unwrap_err().to_string();
    assert!(
        anonymous.starts_with("not authorized to pull") && anonymous.contains("we have never met"),
        "{anonymous}"
    );

    let stranger = pull_with(&harness, &reference, r#"{"identitytoken":"stranger"}"#).await;
    let refused = stranger.unwrap_err().to_string();
    assert!(refused.contains("we have never met"), "{refused}");
    let known = pull_with(&harness, &reference, r#"{"identitytoken":"me"}"#).await;
    known.unwrap();
}

/// Peak resident memory of this process since the last reset, in bytes (proc_pid_status(5), `VmHWM`).
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_layer_of_200_mb_passes_through_a_few_megabytes_of_memory() {
    const SIZE: u64 = 200 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(SIZE);
    header.set_mode(0o644);
    tar.append_data(
        &mut header,
        "big",
        std::io::Read::take(std::io::repeat(7), SIZE),
    )
    .unwrap();
    tar.into_inner().unwrap();
    let image = Image::builder().base_file(&path).unwrap().build().unwrap();
    let registry = FaultyRegistry::start().await;
    registry.put("big", &image);
    registry.put_file(image.blobs()[1].digest(), &path);
    let harness = Harness::start().await;

    // "5" resets the peak to what is resident now (proc_pid_clear_refs(5)).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak_memory();
    let image = harness
        .ensure(&registry.reference("demo/big:big"))
        .await
        .unwrap();
    let grown = peak_memory() - before;
    assert!(grown < 24 << 20, "grew by {} MiB", grown >> 20);
    assert_eq!(
        std::fs::metadata(image.lower_dirs[0].join("big"))
            .unwrap()
            .len(),
        SIZE
    );
}
