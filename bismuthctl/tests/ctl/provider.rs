//! Harness: bismuthctl with a real svcprovider on embedded engines.

use std::ops::Deref;
use std::path::Path;

use bismuth_testkit::cluster::Services;
use tempfile::TempDir;

use crate::harness::Ctl;

pub struct Provider {
    pub services: Services,
    ctl: Ctl,
    dir: TempDir,
}

impl Provider {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let services = Services::start_alone(dir.path()).await.unwrap();
        let ctl = Ctl::default().with(services.operator());
        Self { services, ctl, dir }
    }

    /// Asks at `url`, where something is between the program and svcprovider.
    pub fn at(&self, url: String) -> Ctl {
        self.with([("BISMUTH_SVCPROVIDER", url)])
    }

    /// A directory for files of the test's own.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// A file with this content.
    pub fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.scratch().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The groups that have something.
    pub async fn groups(&self) -> Vec<String> {
        let listed = self.json("group list").await;
        let groups = listed.as_array().unwrap().iter();
        groups
            .map(|group| group["group"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Deref for Provider {
    type Target = Ctl;

    fn deref(&self) -> &Ctl {
        &self.ctl
    }
}
