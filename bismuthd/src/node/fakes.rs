//! A launcher on fake images and a fake containerd, for tests of the layers above it. It cannot start a container: that
//! needs a real root filesystem.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bismuth_containerd::fake::FakeContainerd;
use bismuth_containerd::images::ImageError;
use bismuth_containerd::images::fake::FakeImages;
use bismuth_handover::NodeName;
use bismuth_model::{ContainerId, FunctionDefinition, FunctionId, Revision};
use bismuth_sandbox::ids::IdPool;
use tempfile::TempDir;

use super::launch::{LaunchConfig, Launcher, WantedRuntime};
use super::slot::Slot;
use super::state_dir::StateDir;
use crate::logs::rotate::Limits;
use crate::logs::thread::LogThread;
use crate::svcprovider::{SecretSource, ServiceSockets};

/// The name of the node that the containers in containerd belong to.
pub const NODE: &str = "node";

/// A launcher and what it is made of.
pub struct Fakes {
    pub containerd: FakeContainerd,
    pub images: FakeImages,
    pub launcher: Arc<Launcher>,
    _dir: TempDir,
}

impl Fakes {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (containerd, images) = (FakeContainerd::default(), FakeImages::new());
        Self {
            launcher: launcher(dir.path(), &containerd, &images),
            containerd,
            images,
            _dir: dir,
        }
    }
}

/// A launcher whose state is below `dir`.
pub fn launcher(dir: &Path, containerd: &FakeContainerd, images: &FakeImages) -> Arc<Launcher> {
    let config = LaunchConfig {
        init: PathBuf::from("/nonexistent"),
        runtime: WantedRuntime::Named("runc".into()),
        limit_swap: false,
        log_limits: Limits::default(),
        node: NODE.into(),
        secrets: SecretSource::new(dir.join("nobody"), NodeName::new(NODE).unwrap()),
    };
    Arc::new(Launcher::new(
        config,
        Arc::new(containerd.clone()),
        Arc::new(images.clone()),
        Arc::new(StateDir::open(&dir.join("n")).unwrap()),
        LogThread::start().unwrap(),
        ServiceSockets::default(),
        IdPool::new(1 << 20, 100).unwrap(),
    ))
}

/// A definition whose image is called `image`.
pub fn definition() -> Arc<FunctionDefinition> {
    let (image, mode) = ("image".parse().unwrap(), "exec:a".parse().unwrap());
    Arc::new(FunctionDefinition::new(image, mode))
}

/// A slot of it.
pub fn slot() -> Arc<Slot> {
    let (id, function) = (ContainerId::new_random(), FunctionId::new_random());
    Arc::new(Slot::new(id, function, Revision::FIRST, definition(), 10))
}

/// A registry that does not answer.
pub fn registry_away() -> ImageError {
    ImageError::Unreachable {
        act: "get manifest".into(),
        reference: "image".into(),
        registry: "registry".into(),
        message: "HTTP 503".into(),
    }
}

/// A registry that has no such image.
pub fn image_unknown() -> ImageError {
    ImageError::UnknownImage {
        reference: "image".into(),
        registry: "registry".into(),
        message: "manifest unknown".into(),
    }
}
