//! Garbage collection of images on a real containerd.

use std::time::Duration;

use bismuth_containerd::images::{DiskPolicy, GarbagePolicy, Images as _};
use bismuth_testkit::Image;

use crate::faulty_registry::FaultyRegistry;
use crate::harness::Harness;
use crate::pull::layered;

fn all_unused() -> GarbagePolicy {
    GarbagePolicy {
        max_unused_age: Some(Duration::ZERO),
        grace: Duration::ZERO,
        ..GarbagePolicy::default()
    }
}

/// Shares its first layer with every other of them.
fn on_shared_base(own: &str) -> Image {
    Image::builder()
        .file("base", 0o644, b"shared")
        .layer()
        .file(own, 0o644, own.as_bytes())
        .build()
        .unwrap()
}

#[tokio::test]
async fn retained_images_survive_containerds_collector_and_removed_ones_leave_only_shared_layers() {
    let registry = FaultyRegistry::start().await;
    let (kept, removed) = (on_shared_base("kept"), on_shared_base("removed"));
    registry.put("kept", &kept);
    registry.put("removed", &removed);
    let mut harness = Harness::start().await;
    let kept_name = registry.reference("demo/x:kept");
    harness.ensure(&kept_name).await.unwrap();
    let only_kept = harness.contents().await;
    // The layers' two snapshots and the view.
    assert_eq!(only_kept.snapshots.len(), 3);
    harness
        .ensure(&registry.reference("demo/x:removed"))
        .await
        .unwrap();
    assert_eq!(harness.contents().await.snapshots.len(), 5);

    // containerd collects when it starts, and whenever a lease is deleted so.
    let both = harness.contents().await;
    harness.server.restart().await.unwrap();
    harness.ctr(&["leases", "create", "--id", "any"]);
    harness.ctr(&["leases", "rm", "--sync", "any"]);
    assert_eq!(harness.contents().await, both);

    let mut policy = all_unused();
    policy.in_use.insert(kept_name.clone());
    harness.restart_store();
    let report = harness.store.collect_garbage(&policy).await.unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    assert_eq!(
        report
            .removed
            .iter()
            .map(|image| image.digest.as_str())
            .collect::<Vec<_>>(),
        [removed.digest()]
    );
    assert_eq!(harness.contents().await, only_kept);
    let image = harness.ensure(&kept_name).await.unwrap();
    assert_eq!(harness.mounted(&image).names(""), ["base", "kept"]);

    let report = harness.store.collect_garbage(&all_unused()).await.unwrap();
    assert_eq!(report.removed.len(), 1, "{report:?}");
    let left = harness.contents().await;
    assert!(left.is_empty(), "{left:?}");
    // And it can be had again.
    harness.ensure(&kept_name).await.unwrap();
}

#[tokio::test]
async fn a_recently_used_image_stays_even_after_a_restart() {
    let (_registry, reference) = FaultyRegistry::serving(&layered()).await;
    let mut harness = Harness::start().await;
    harness.ensure(&reference).await.unwrap();
    let policy = GarbagePolicy {
        max_unused_age: Some(Duration::ZERO),
        ..GarbagePolicy::default()
    };
    for _ in 0..2 {
        let report = harness.store.collect_garbage(&policy).await.unwrap();
        assert!(report.removed.is_empty(), "{report:?}");
        harness.restart_store();
    }
    assert!(harness.store.list().await.unwrap()[0].last_used.is_some());
}

#[tokio::test]
async fn a_full_disk_evicts_pulled_images_but_never_imported_ones() {
    let (_registry, reference) = FaultyRegistry::serving(&layered()).await;
    let harness = Harness::start().await;
    harness.ensure(&reference).await.unwrap();
    let layout = harness.server.dir().join("layout");
    on_shared_base("imported")
        .write_layout(&layout, "docker.io/demo/imported:1")
        .unwrap();
    harness.store.import(&layout, None).await.unwrap();
    // Every disk is fuller than this.
    let disk = DiskPolicy {
        path: harness.server.dir().to_owned(),
        high_watermark: 0.0,
        low_watermark: 0.0,
    };
    let policy = GarbagePolicy {
        max_unused_age: None,
        disk: Some(disk),
        grace: Duration::ZERO,
        ..GarbagePolicy::default()
    };
    let report = harness.store.collect_garbage(&policy).await.unwrap();
    assert_eq!(report.removed.len(), 1, "{report:?}");
    assert_eq!(report.removed[0].digest.as_str(), layered().digest());
    harness.ensure("demo/imported:1").await.unwrap();
}

#[tokio::test]
async fn a_deleted_lease_or_view_is_created_again() {
    let image = layered();
    let (registry, reference) = FaultyRegistry::serving(&image).await;
    let harness = Harness::start().await;
    harness.ensure(&reference).await.unwrap();
    let before = harness.contents().await;
    harness.ctr(&[
        "leases",
        "rm",
        "--sync",
        &format!("bismuth.image.{}", image.digest()),
    ]);
    assert_ne!(
        harness.contents().await,
        before,
        "the view went with its lease"
    );
    harness.ensure(&reference).await.unwrap();
    assert_eq!(harness.contents().await, before);
    assert_eq!(
        registry.count(image.blobs()[1].digest()),
        1,
        "nothing was pulled again"
    );
}
