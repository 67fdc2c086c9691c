//! What is kept and what goes.

use std::time::Duration;

use bismuth_containerd::images::{DiskPolicy, GarbagePolicy, Images as _};
use bismuth_testkit::Image;

use crate::faulty::Faulty;
use crate::harness::Node;
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
async fn kept_images_survive_containerds_collector_and_removed_ones_leave_only_what_is_shared() {
    let registry = Faulty::start().await;
    let (kept, removed) = (on_shared_base("kept"), on_shared_base("removed"));
    registry.put("kept", &kept);
    registry.put("removed", &removed);
    let mut node = Node::start().await;
    let kept_name = registry.reference("demo/x:kept");
    node.ensure(&kept_name).await.unwrap();
    let only_kept = node.holdings().await;
    // The layers' two snapshots and the view.
    assert_eq!(only_kept.snapshots.len(), 3);
    node.ensure(&registry.reference("demo/x:removed"))
        .await
        .unwrap();
    assert_eq!(node.holdings().await.snapshots.len(), 5);

    // containerd collects when it starts, and whenever a lease is deleted so.
    let both = node.holdings().await;
    node.server.restart().await.unwrap();
    node.ctr(&["leases", "create", "--id", "any"]);
    node.ctr(&["leases", "rm", "--sync", "any"]);
    assert_eq!(node.holdings().await, both);

    let mut policy = all_unused();
    policy.in_use.insert(kept_name.clone());
    node.restart_store();
    let report = node.store.collect_garbage(&policy).await.unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    assert_eq!(
        report
            .removed
            .iter()
            .map(|image| image.digest.as_str())
            .collect::<Vec<_>>(),
        [removed.digest()]
    );
    assert_eq!(node.holdings().await, only_kept);
    let image = node.ensure(&kept_name).await.unwrap();
    assert_eq!(node.mounted(&image).names(""), ["base", "kept"]);

    let report = node.store.collect_garbage(&all_unused()).await.unwrap();
    assert_eq!(report.removed.len(), 1, "{report:?}");
    assert!(
        node.holdings().await.is_empty(),
        "{:?}",
        node.holdings().await
    );
    // And it can be had again.
    node.ensure(&kept_name).await.unwrap();
}

#[tokio::test]
async fn an_image_asked_for_a_moment_ago_stays_even_after_a_restart() {
    let registry = Faulty::start().await;
    registry.put("1", &layered());
    let mut node = Node::start().await;
    node.ensure(&registry.reference("demo/x:1")).await.unwrap();
    let policy = GarbagePolicy {
        max_unused_age: Some(Duration::ZERO),
        ..GarbagePolicy::default()
    };
    assert!(
        node.store
            .collect_garbage(&policy)
            .await
            .unwrap()
            .removed
            .is_empty()
    );
    node.restart_store();
    assert!(
        node.store
            .collect_garbage(&policy)
            .await
            .unwrap()
            .removed
            .is_empty()
    );
    assert!(node.store.list().await.unwrap()[0].last_used.is_some());
}

#[tokio::test]
async fn a_full_disk_takes_pulled_images_but_never_imported_ones() {
    let registry = Faulty::start().await;
    registry.put("1", &layered());
    let node = Node::start().await;
    node.ensure(&registry.reference("demo/x:1")).await.unwrap();
    let layout = node.server.dir().join("layout");
    on_shared_base("imported")
        .write_layout(&layout, "docker.io/demo/imported:1")
        .unwrap();
    node.store.import(&layout, None).await.unwrap();
    // Every disk is fuller than this.
    let disk = DiskPolicy {
        path: node.server.dir().to_owned(),
        high_watermark: 0.0,
        low_watermark: 0.0,
    };
    let policy = GarbagePolicy {
        max_unused_age: None,
        disk: Some(disk),
        grace: Duration::ZERO,
        ..GarbagePolicy::default()
    };
    let report = node.store.collect_garbage(&policy).await.unwrap();
    assert_eq!(report.removed.len(), 1, "{report:?}");
    assert_eq!(report.removed[0].digest.as_str(), layered().digest());
    node.ensure("demo/imported:1").await.unwrap();
}

#[tokio::test]
async fn a_lease_or_a_view_that_somebody_deleted_is_made_again() {
    let registry = Faulty::start().await;
    let image = layered();
    registry.put("1", &image);
    let node = Node::start().await;
    let reference = registry.reference("demo/x:1");
    node.ensure(&reference).await.unwrap();
    let before = node.holdings().await;
    node.ctr(&[
        "leases",
        "rm",
        "--sync",
        &format!("bismuth.image.{}", image.digest()),
    ]);
    assert_ne!(
        node.holdings().await,
        before,
        "the view went with its lease"
    );
    node.ensure(&reference).await.unwrap();
    assert_eq!(node.holdings().await, before);
    assert_eq!(
        registry.count(image.blobs()[1].digest()),
        1,
        "nothing was pulled again"
    );
}
