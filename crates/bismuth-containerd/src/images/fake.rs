//! A scripted fake of [`ImageStore`](super::ImageStore): images by name, failures and delays as a test wants them.
//!
//! ```text
//!   put("docker.io/library/alpine:latest", image)     ensure ──► that image
//!   fail(name, error)                                 ensure ──► that error
//!   block(name) … unblock(name)                        ensure ──► waits in phase Pulling until unblocked
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use oci_spec::distribution::Reference;
use tokio::sync::watch;

use super::{
    Digest, GarbagePolicy, GarbageReport, ImageConfig, ImageError, ImageSummary, Images, Phase,
    PreparedImage, PullPolicy, PullProgress, Result,
};

/// Images out of a test's hands. Cheap to clone; clones share everything.
#[derive(Clone, Default)]
pub struct FakeImages {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
}

#[derive(Default)]
struct State {
    images: BTreeMap<String, PreparedImage>,
    failures: HashMap<String, ImageError>,
    blocked: HashSet<String>,
    requests: Vec<(String, PullPolicy)>,
}

impl FakeImages {
    /// Knows no image.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers an image with this configuration and these directories under its full name. Its digest is made from them.
    pub fn put(
        &self,
        reference: &Reference,
        config: ImageConfig,
        lower_dirs: Vec<PathBuf>,
    ) -> PreparedImage {
        let digest = Digest::of(format!("{reference} {config:?} {lower_dirs:?}").as_bytes());
        let image = PreparedImage {
            reference: reference.clone(),
            digest: digest.clone(),
            manifest_digest: digest,
            config,
            lower_dirs,
        };
        let mut state = self.state();
        state.failures.remove(&reference.whole());
        state.images.insert(reference.whole(), image.clone());
        image
    }

    /// Fails every request for this name until it is `put` again.
    pub fn fail(&self, reference: &Reference, error: ImageError) {
        self.state().failures.insert(reference.whole(), error);
    }

    /// Lets requests for this name wait until it is unblocked.
    pub fn block(&self, reference: &Reference) {
        self.state().blocked.insert(reference.whole());
    }

    /// Lets those that wait go on.
    pub fn unblock(&self, reference: &Reference) {
        self.state().blocked.remove(&reference.whole());
        self.changed.send_replace(());
    }

    /// Every request so far, in order.
    pub fn requests(&self) -> Vec<(String, PullPolicy)> {
        self.state().requests.clone()
    }

    fn answer(&self, name: &str) -> Result<PreparedImage> {
        let state = self.state();
        match (state.failures.get(name), state.images.get(name)) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(image)) => Ok(image.clone()),
            (None, None) => Err(ImageError::UnknownImage {
                reference: name.to_owned(),
                registry: "fake".to_owned(),
                message: "MANIFEST_UNKNOWN: manifest unknown".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl Images for FakeImages {
    async fn ensure(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        progress: watch::Sender<PullProgress>,
    ) -> Result<PreparedImage> {
        let name = reference.whole();
        self.state().requests.push((name.clone(), policy));
        progress.send_modify(|progress| progress.phase = Phase::Pulling);
        let mut changed = self.changed.subscribe();
        while self.state().blocked.contains(&name) {
            // The sender lives as long as we do.
            let _ = changed.changed().await;
        }
        let image = self.answer(&name)?;
        progress.send_modify(|progress| progress.phase = Phase::Ready);
        Ok(image)
    }

    async fn list(&self) -> Result<Vec<ImageSummary>> {
        let summary = |(name, image): (&String, &PreparedImage)| ImageSummary {
            names: vec![name.clone()],
            digest: image.digest.clone(),
            content_bytes: 0,
            unpacked_bytes: 0,
            created: None,
            last_used: None,
            prepared: true,
            pulled: true,
        };
        Ok(self.state().images.iter().map(summary).collect())
    }

    async fn import(&self, path: &Path, name: Option<&Reference>) -> Result<Vec<PreparedImage>> {
        match name {
            Some(name) => Ok(vec![self.put(
                name,
                ImageConfig::default(),
                vec![path.to_owned()],
            )]),
            None => Ok(Vec::new()),
        }
    }

    async fn collect_garbage(&self, policy: &GarbagePolicy) -> Result<GarbageReport> {
        let mut report = GarbageReport::default();
        for image in self.list().await? {
            let used = policy.in_use.contains(image.digest.as_str())
                || image.names.iter().any(|name| policy.in_use.contains(name));
            if !used && policy.max_unused_age.is_some() {
                self.state()
                    .images
                    .retain(|_, known| known.digest != image.digest);
                report.removed.push(image);
            }
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_fake_blocks_fails_and_answers_as_scripted() {
        let fake = FakeImages::new();
        let name: Reference = "alpine".parse().expect("name");
        let ensure = || {
            fake.ensure(
                &name,
                PullPolicy::IfMissing,
                watch::channel(PullProgress::default()).0,
            )
        };
        assert!(matches!(
            ensure().await,
            Err(ImageError::UnknownImage { .. })
        ));
        let image = fake.put(&name, ImageConfig::default(), vec!["/rootfs".into()]);
        assert_eq!(ensure().await.expect("there"), image);
        fake.block(&name);
        let mut waiting = ensure();
        assert!((&mut waiting).now_or_never().is_none());
        fake.unblock(&name);
        assert_eq!(waiting.await.expect("released"), image);
    }
}
