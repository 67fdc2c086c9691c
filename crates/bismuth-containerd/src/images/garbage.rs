//! Garbage collection of images: which are removed, by age and by use of the disk, and how.
//!
//! ```text
//!   list ──► plan (pure): pulled, retained, not in use, not touched within `grace`
//!              ├── not used for `max_unused_age`                      ──► all of them
//!              └── disk above `high_watermark`: least recently used   ──► until below `low_watermark`
//!        ──► remove: names, then the lease; containerd collects what nothing else needs before it answers
//! ```
//!
//! Images that were imported, or put there by other tools, are never removed: they may be nowhere else.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::ImageSummary;
use super::digest::Digest;
use super::error::{ImageError, Result};
use super::inner::{StoreInner, image_lock};

/// When to remove which images.
#[derive(Debug, Clone, PartialEq)]
pub struct GarbagePolicy {
    /// Images that nobody asked for in this time go. `None`: age alone removes none.
    pub max_unused_age: Option<Duration>,
    /// When the disk is too full. `None`: its use alone removes none.
    pub disk: Option<DiskPolicy>,
    /// Digests and names (in full, as `docker.io/library/alpine:latest`) that stay.
    pub in_use: HashSet<String>,
    /// Images touched within this time stay in any case: somebody may be about to start a container from one.
    pub grace: Duration,
}

impl Default for GarbagePolicy {
    /// A week's absence, or a disk that is 85 % full (kubelet's numbers for the disk), with ten minutes of grace: longer than
    /// any start of a container may take.
    fn default() -> Self {
        Self {
            max_unused_age: Some(Duration::from_secs(7 * 24 * 3600)),
            disk: None,
            in_use: HashSet::new(),
            grace: Duration::from_secs(600),
        }
    }
}

/// When a disk is too full.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskPolicy {
    /// Any path on containerd's disk; its root directory, usually.
    pub path: PathBuf,
    /// Images are removed when the used share is above this, between 0 and 1.
    pub high_watermark: f64,
    /// Images are removed until the used share is below this, between 0 and 1.
    pub low_watermark: f64,
}

/// What a collection did.
#[derive(Debug, Clone, Default)]
pub struct GarbageReport {
    /// The images that went, least recently used first.
    pub removed: Vec<ImageSummary>,
    /// The images that should have gone, and why they did not.
    pub failed: Vec<(Digest, ImageError)>,
}

/// How full a disk is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DiskUse {
    used: u64,
    /// What unprivileged users can use in all.
    total: u64,
}

impl DiskUse {
    fn of(path: &Path) -> Result<Self> {
        let stat = rustix::fs::statvfs(path).map_err(std::io::Error::from);
        let stat = stat.map_err(ImageError::file("measure the disk of", path))?;
        let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
        Ok(Self {
            used,
            total: used + stat.f_bavail * stat.f_frsize,
        })
    }

    fn above(&self, share: f64) -> bool {
        self.used as f64 > self.total as f64 * share
    }
}

/// Decides which images go, least recently used first.
fn plan(
    mut images: Vec<ImageSummary>,
    policy: &GarbagePolicy,
    disk: Option<DiskUse>,
    now: SystemTime,
) -> Vec<ImageSummary> {
    let used = |image: &ImageSummary| {
        image
            .last_used
            .max(image.created)
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    // An image "used in the future" (a clock was set back) counts as used now.
    let unused_for = |image: &ImageSummary| now.duration_since(used(image)).unwrap_or_default();
    let wanted = |image: &ImageSummary| {
        policy.in_use.contains(image.digest.as_str())
            || image.names.iter().any(|name| policy.in_use.contains(name))
    };
    images.retain(|image| image.pulled && !wanted(image) && unused_for(image) >= policy.grace);
    images.sort_by_key(used);

    let pressure = policy
        .disk
        .as_ref()
        .zip(disk)
        .filter(|(policy, disk)| disk.above(policy.high_watermark));
    let mut left = pressure.map(|(policy, disk)| (policy.low_watermark, disk));
    images.retain(|image| {
        let old = policy
            .max_unused_age
            .is_some_and(|age| unused_for(image) > age);
        let pressed = left.is_some_and(|(low, disk)| disk.above(low));
        if let Some((_, disk)) = &mut left
            && (old || pressed)
        {
            // An upper bound, since layers may be shared. Too few removed now means more the next time.
            disk.used = disk
                .used
                .saturating_sub(image.content_bytes + image.unpacked_bytes);
        }
        old || pressed
    });
    images
}

impl StoreInner {
    pub(super) async fn collect_garbage(&self, policy: &GarbagePolicy) -> Result<GarbageReport> {
        let disk = policy
            .disk
            .as_ref()
            .map(|disk| DiskUse::of(&disk.path))
            .transpose()?;
        let images = self.list().await?;
        let mut report = GarbageReport::default();
        for image in plan(images, policy, disk, SystemTime::now()) {
            match self.remove(&image, policy.grace).await {
                Ok(true) => {
                    tracing::info!(image = %image.digest, names = ?image.names, last_used = ?image.last_used, "removed an unused image");
                    report.removed.push(image);
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(image = %image.digest, %error, "could not remove an unused image");
                    report.failed.push((image.digest, error));
                }
            }
        }
        Ok(report)
    }

    /// Removes an image, unless somebody asked for it since it was planned. Names first, the lease last: when this fails
    /// half-way, the lease still lists the image, and the next collection goes on.
    async fn remove(&self, image: &ImageSummary, grace: Duration) -> Result<bool> {
        let _lock = self.locks.lock(&image_lock(&image.digest)).await;
        let recent = |at: SystemTime| at.elapsed().unwrap_or_default() < grace;
        if self.last_use(&image.digest).is_some_and(recent) {
            return Ok(false);
        }
        for name in &image.names {
            // Only if the name did not move on to another image meanwhile.
            if self.records.get(name).await?.as_ref() == Some(&image.digest) {
                self.records.delete(name).await?;
            }
        }
        self.leases
            .delete(&super::leases::image_lease(&image.digest), true)
            .await?;
        self.evict(&image.digest);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 10_000 * HOUR
    }

    fn image(name: &str, unused: Duration, bytes: u64) -> ImageSummary {
        ImageSummary {
            names: vec![name.to_owned()],
            digest: Digest::of(name.as_bytes()),
            content_bytes: 0,
            unpacked_bytes: bytes,
            created: None,
            last_used: Some(now() - unused),
            prepared: true,
            pulled: true,
        }
    }

    fn planned(
        images: &[ImageSummary],
        policy: &GarbagePolicy,
        disk: Option<DiskUse>,
    ) -> Vec<String> {
        let planned = plan(images.to_vec(), policy, disk, now());
        planned.into_iter().flat_map(|image| image.names).collect()
    }

    fn policy() -> GarbagePolicy {
        GarbagePolicy {
            max_unused_age: Some(24 * HOUR),
            ..GarbagePolicy::default()
        }
    }

    #[test]
    fn old_images_go_and_young_used_and_imported_ones_stay() {
        let mut imported = image("imported", 100 * HOUR, 1);
        imported.pulled = false;
        let images = [
            image("young", HOUR, 1),
            image("old", 48 * HOUR, 1),
            image("older", 72 * HOUR, 1),
            image("used", 72 * HOUR, 1),
            imported,
        ];
        let mut policy = policy();
        policy.in_use.insert("used".to_owned());
        assert_eq!(planned(&images, &policy, None), ["older", "old"]);
        policy.in_use.insert(Digest::of(b"old").to_string());
        assert_eq!(planned(&images, &policy, None), ["older"]);
    }

    #[test]
    fn a_full_disk_evicts_the_least_recently_used_until_it_is_low_enough() {
        let images = [
            image("a", 3 * HOUR, 10),
            image("b", 2 * HOUR, 10),
            image("c", HOUR, 10),
            image("d", Duration::ZERO, 10),
        ];
        let disk = DiskPolicy {
            path: "/".into(),
            high_watermark: 0.85,
            low_watermark: 0.7,
        };
        let policy = GarbagePolicy {
            disk: Some(disk),
            ..policy()
        };
        let full = |used| Some(DiskUse { used, total: 100 });
        assert_eq!(planned(&images, &policy, full(80)), Vec::<String>::new());
        assert_eq!(planned(&images, &policy, full(90)), ["a", "b"]);
        // Even the fullest disk leaves what is within the grace.
        assert_eq!(planned(&images, &policy, full(100)), ["a", "b", "c"]);
    }

    #[test]
    fn an_image_that_was_never_used_counts_from_when_it_came() {
        let mut fresh = image("fresh", HOUR, 1);
        (fresh.created, fresh.last_used) = (Some(now() - HOUR), None);
        let mut lost = fresh.clone();
        (lost.names, lost.created) = (vec!["lost".to_owned()], None);
        assert_eq!(planned(&[fresh, lost], &policy(), None), ["lost"]);
    }
}
