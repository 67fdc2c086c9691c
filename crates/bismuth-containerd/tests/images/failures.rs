//! Pulls that fail, are retried or are resumed.

use std::time::Duration;

use bismuth_containerd::images::ImageError;
use bismuth_testkit::image::Compression;
use bismuth_testkit::{Image, Registry, eventually};
use hyper::StatusCode;

use crate::faulty_registry::{Fault, FaultyRegistry};
use crate::harness::{BOUND, Harness, ensure, store};
use crate::pull::layered;

/// A layer of some megabytes that does not compress.
fn large() -> Image {
    let mut random = fastrand::Rng::with_seed(7);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(5 << 20)
        .collect();
    Image::builder()
        .compression(Compression::Gzip)
        .file("large", 0o644, &content)
        .build()
        .unwrap()
}

async fn nothing_is_left(harness: &Harness) {
    eventually("nothing is left", BOUND, async || {
        let contents = harness.contents().await;
        if contents.is_empty() {
            Ok(())
        } else {
            Err(format!("{contents:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn an_unknown_image_is_reported_with_the_registrys_message() {
    let registry = Registry::start().await.unwrap();
    registry.push("demo/layered:1", &layered()).await.unwrap();
    let harness = Harness::start().await;
    for (reference, words) in [
        ("demo/layered:2", "MANIFEST_UNKNOWN: manifest unknown"),
        ("demo/none:1", "manifest unknown"),
    ] {
        let error = harness
            .ensure(&registry.reference(reference))
            .await
            .unwrap_err();
        assert!(matches!(error, ImageError::UnknownImage { .. }), "{error}");
        let text = error.to_string();
        let expected = format!(
            "unknown image {}: {} says: ",
            registry.reference(reference),
            registry.url()
        );
        assert!(
            text.starts_with(&expected) && text.contains(words),
            "{text}"
        );
    }
    nothing_is_left(&harness).await;
}

#[tokio::test]
async fn a_manifest_under_a_wrong_digest_is_refused_with_both_digests_and_nothing_stays() {
    let (wanted, other) = (layered(), large());
    let registry = FaultyRegistry::start().await;
    registry.serve_instead(wanted.digest(), &other);
    let harness = Harness::start().await;
    let error = harness
        .ensure(&registry.reference(&format!("demo/x@{}", wanted.digest())))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{text}");
    assert!(
        text.contains(wanted.digest()) && text.contains(other.digest()),
        "{text}"
    );
    nothing_is_left(&harness).await;
}

#[tokio::test]
async fn a_corrupt_blob_is_refused_with_both_digests_and_nothing_stays() {
    let image = layered();
    let layer = image.blobs()[2].digest();
    let (registry, reference) = FaultyRegistry::serving(&image).await;
    registry.fault(layer, Fault::Corrupt);
    let harness = Harness::start().await;
    let error = harness.ensure(&reference).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(&error, ImageError::DigestMismatch { expected, .. } if expected == layer),
        "{text}"
    );
    assert!(
        text.contains("should be sha256:") && text.contains("but is sha256:"),
        "{text}"
    );
    assert_eq!(registry.count(layer), 1, "a lie is not asked for twice");
    nothing_is_left(&harness).await;
}

#[tokio::test]
async fn a_layer_whose_connection_is_cut_is_resumed() {
    let image = large();
    let layer = image.blobs()[1].digest();
    let (registry, reference) = FaultyRegistry::serving(&image).await;
    // More cuts than attempts: each attempt that gets further counts as a new beginning.
    registry.fault(layer, Fault::CutAfter(600_000, 6));
    let harness = Harness::start().await;
    harness.ensure(&reference).await.unwrap();
    let lines: Vec<_> = registry
        .log()
        .into_iter()
        .filter(|line| line.contains(layer))
        .collect();
    assert_eq!(lines.len(), 7, "{lines:?}");
    assert!(
        lines[1..].iter().all(|line| line.contains(" from ")),
        "{lines:?}"
    );
}

/// A pull of `reference` that does not try again, and ends with what a later one may go on from.
async fn interrupted_pull(harness: &Harness, reference: &str) {
    let impatient = store(&harness.containerd, |config| config.retry.attempts = 1);
    let error = ensure(&impatient, reference, Default::default()).await;
    let error = error.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_registry_without_ranges_is_asked_for_the_whole_layer_again() {
    let image = large();
    let layer = image.blobs()[1].digest();
    let (registry, reference) = FaultyRegistry::serving(&image).await;
    registry.fault(layer, Fault::CutAfter(1_500_000, 1));
    let harness = Harness::start().await;
    interrupted_pull(&harness, &reference).await;
    registry.fault(layer, Fault::NoRanges);
    harness.ensure(&reference).await.unwrap();
}

#[tokio::test]
async fn blobs_that_an_earlier_process_fetched_are_not_fetched_again() {
    let image = large();
    let layer = image.blobs()[1].digest();
    let (registry, reference) = FaultyRegistry::serving(&image).await;
    registry.fault(layer, Fault::CutAfter(3_000_000, 1));
    let mut harness = Harness::start().await;
    interrupted_pull(&harness, &reference).await;
    harness.server.restart().await.unwrap();
    harness.restart_store();
    harness.ensure(&reference).await.unwrap();
    let log = registry.log();
    let (_, from) = log.last().unwrap().rsplit_once(" from ").unwrap();
    assert!(from.parse::<u64>().unwrap() > 2_000_000, "{log:?}");
    let leases = harness.contents().await.leases;
    assert_eq!(
        leases.len(),
        1,
        "the leases of both attempts are gone: {leases:?}"
    );
}

#[tokio::test]
async fn an_overloaded_registry_is_asked_again_but_not_for_ever() {
    let image = layered();
    let layer = image.blobs()[1].digest();
    let (registry, reference) = FaultyRegistry::serving(&image).await;
    registry.fault(layer, Fault::Status(StatusCode::SERVICE_UNAVAILABLE, 3));
    let harness = Harness::start().await;
    harness.ensure(&reference).await.unwrap();
    assert_eq!(registry.count(layer), 4);

    let image = large();
    let layer = image.blobs()[1].digest();
    registry.put("2", &image);
    registry.fault(layer, Fault::Status(StatusCode::SERVICE_UNAVAILABLE, 100));
    let error = harness
        .ensure(&registry.reference("demo/x:2"))
        .await
        .unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("HTTP 503: try again"),
        "{error}"
    );
    assert_eq!(registry.count(layer), 4);
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_one_fails_and_each_is_named_when_all_do() {
    let image = layered();
    let (first, second) = (FaultyRegistry::start().await, FaultyRegistry::start().await);
    second.put("1", &image);
    let harness = Harness::start_with(|config| {
        let mirrors = [&first, &second].map(|registry| {
            let mirror = format!("docker.io=http://{}", registry.reference(""));
            mirror.parse().unwrap()
        });
        config.registries.add_mirrors(mirrors);
    })
    .await;
    harness.ensure("some:1").await.unwrap();
    let error = harness.ensure("some:2").await.unwrap_err();
    assert!(
        matches!(&error, ImageError::AllEndpointsFailed { failures, .. } if failures.len() == 2),
        "{error}"
    );
    assert_eq!(
        error.to_string().matches("never heard of it").count(),
        2,
        "{error}"
    );
}

#[tokio::test]
async fn a_registry_that_is_down_is_named() {
    let mut registry = Registry::start().await.unwrap();
    registry.kill().await.unwrap();
    let harness = Harness::start().await;
    let error = harness
        .ensure(&registry.reference("demo/x:1"))
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn a_failure_is_shared_by_all_waiters_and_the_next_call_tries_again() {
    let image = layered();
    let (registry, reference) = FaultyRegistry::serving(&image).await;
    registry.fault(image.blobs()[1].digest(), Fault::Corrupt);
    let harness = Harness::start().await;
    let all = futures_util::future::join_all((0..10).map(|_| harness.ensure(&reference))).await;
    assert!(
        all.iter()
            .all(|one| matches!(one, Err(ImageError::DigestMismatch { .. })))
    );
    assert_eq!(registry.count(image.blobs()[1].digest()), 1);
    registry.clear_faults();
    harness.ensure(&reference).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_reported_as_one() {
    use nix::mount::{MsFlags, mount, umount};
    let (_registry, reference) = FaultyRegistry::serving(&large()).await;
    let harness = Harness::start().await;
    let content = harness
        .server
        .dir()
        .join("root/io.containerd.content.v1.content");
    let (tmpfs, size) = (Some("tmpfs"), Some("size=2m"));
    mount(tmpfs, &content, tmpfs, MsFlags::empty(), size).unwrap();
    std::fs::create_dir(content.join("ingest")).unwrap();
    let ensured = harness.ensure(&reference).await;
    umount(&content).unwrap();
    let error = ensured.unwrap_err();
    assert!(matches!(error, ImageError::DiskFull { .. }), "{error:?}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_registry_that_never_answers_costs_no_more_than_the_deadline() {
    let registry = Registry::start().await.unwrap();
    let harness = Harness::start_with(|config| config.pull_deadline = Duration::from_secs(1)).await;
    registry.process().unwrap().pause().unwrap();
    let reference = registry.reference("demo/x:1");
    let error = harness.ensure(&reference).await.unwrap_err();
    assert!(error.is_retryable());
    assert_eq!(
        error.to_string(),
        format!("{reference} was not ready within 1s")
    );
}
