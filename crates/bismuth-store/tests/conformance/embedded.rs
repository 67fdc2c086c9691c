//! The suite on the embedded engines, and cases of theirs alone.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bismuth_store::objects::Objects;
use bismuth_store::objects::files::Files;
use bismuth_store::records::Records;
use bismuth_store::records::embedded::{Embedded, OpenError};
use tempfile::TempDir;

use crate::test_engines::{TestEngines, delete, made, make, put, summed, usage, value};

pub struct OnDisk {
    dir: TempDir,
    records: Option<Arc<dyn Records>>,
    objects: Arc<dyn Objects>,
}

impl OnDisk {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = Files::open(&dir.path().join("objects")).unwrap();
        Self {
            records: Some(open(dir.path())),
            objects: Arc::new(objects),
            dir,
        }
    }
}

fn open(dir: &Path) -> Arc<dyn Records> {
    Arc::new(Embedded::open(&dir.join("deep/records")).unwrap())
}

#[async_trait]
impl TestEngines for OnDisk {
    fn records(&self) -> Arc<dyn Records> {
        self.records.clone().unwrap()
    }

    fn others(&self) -> Arc<dyn Records> {
        self.records()
    }

    fn objects(&self) -> Arc<dyn Objects> {
        self.objects.clone()
    }

    fn object_count(&self) -> usize {
        files_below(&self.dir.path().join("objects")).len()
    }

    async fn reopen(&mut self) {
        self.records = None;
        self.records = Some(open(self.dir.path()));
    }
}

pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

macro_rules! embedded_cases {
    ($($($path:ident)::+,)*) => {
        $( embedded_cases!(@ [] $($path)::+); )*
    };
    (@ [$($module:ident)*] $case:ident) => {
        mod $case {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_disk() {
                crate::$($module::)*$case(&mut crate::embedded::OnDisk::new()).await;
            }
        }
    };
    (@ [$($module:ident)*] $next:ident::$($rest:ident)::+) => {
        embedded_cases!(@ [$($module)* $next] $($rest)::+);
    };
}
crate::for_every_case!(embedded_cases);

#[tokio::test]
async fn a_second_process_is_refused_and_told_the_pid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::open(dir.path()).unwrap();
    let error = Embedded::open(dir.path()).unwrap_err();
    let pid = std::process::id().to_string();
    assert!(matches!(&error, OpenError::InUse { pid: its, .. } if *its == pid));
    let said = error.to_string();
    assert!(said.ends_with(&format!("in use by the process {pid}")));
    drop(first);
    Embedded::open(dir.path()).unwrap();
}

#[tokio::test]
async fn other_users_cannot_hold_its_locks_also_where_an_earlier_version_made_the_files() {
    let dir = tempfile::tempdir().unwrap();
    for earlier in [false, true] {
        drop(Embedded::open(dir.path()).unwrap());
        // redb locks the file that it works on.
        for name in ["lock", "records.redb"] {
            let path = dir.path().join(name);
            let mode = std::fs::metadata(&path).unwrap().mode() & 0o777;
            assert_eq!(mode, 0o600, "{name}, made by an earlier version: {earlier}");
            std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }
    }
}

#[tokio::test]
async fn no_value_of_a_secret_and_no_key_is_in_any_file_of_the_store() {
    use crate::secrets::{Keys, key, set};
    let (engines, keys) = (OnDisk::new(), Keys::new());
    let secrets = keys.secrets(engines.records());
    let canary = |n: usize, turn: &str| format!("canary-{n:02}-{turn}-of-many-bytes");
    for n in 0..20 {
        let name = format!("name-{n:02}");
        // Some are large enough to be kept apart.
        let padding = ".".repeat(n * 1000);
        for turn in ["set", "rotated"] {
            let value = canary(n, turn) + &padding;
            set(&secrets, "group", &name, &value).await;
        }
    }
    keys.write(&["second", "first"]);
    secrets.rewrap().await.unwrap();
    secrets.delete("group", &key("name-07")).await.unwrap();

    let files = files_below(engines.dir.path());
    let bytes: Vec<Vec<u8>> = files.iter().map(|it| std::fs::read(it).unwrap()).collect();
    let has = |needle: &str| {
        let needle = needle.as_bytes();
        bytes
            .iter()
            .any(|file| file.windows(needle.len()).any(|it| it == needle))
    };
    // Names are keys of records: it is the right place to look.
    assert!(has("v/name-03"));
    assert!(!has("canary"));
    // The bytes of the master keys.
    assert!(!has("first.......") && !has("second......"));
}

#[tokio::test]
async fn an_object_that_was_damaged_on_disk_breaks_off_before_its_end() {
    use futures_util::TryStreamExt as _;
    let engines = OnDisk::new();
    let blobs = engines.blobs();
    let body = crate::blobs::body(&[b"what was stored"]);
    blobs.put(crate::blobs::new("key"), body).await.unwrap();
    let file = files_below(&engines.dir.path().join("objects")).remove(0);
    std::fs::write(file, b"what was damaged").unwrap();

    let found = blobs.get("group", "key", crate::blobs::whole).await;
    let body = found.unwrap().unwrap().body.unwrap();
    let read: Result<Vec<_>, _> = body.try_collect().await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn a_disk_that_is_full_keeps_what_it_has_and_takes_more_when_there_is_room() {
    let disk = full::Disk::mount(8 << 20);
    let records: Arc<dyn Records> = Arc::new(Embedded::open(&disk.path().join("records")).unwrap());
    make(&records, put("kept", "the old value")).await.unwrap();
    let stored = full::fill(&records, "fill").await;
    assert!(!stored.is_empty());
    let error = make(&records, put("kept", vec![8; 200 << 10])).await;
    full::assert_is_full(&error.unwrap_err());
    assert_eq!(value(&records, "kept").await.unwrap(), "the old value");
    assert_eq!(usage(&records).await, summed(&records).await);

    // Room that functions make themselves.
    for key in &stored {
        made(&records, delete(key)).await;
    }
    full::takes_writes_again(&records).await;
    // Room that somebody else makes.
    let filler = disk.fill();
    full::fill(&records, "again").await;
    assert_eq!(value(&records, "kept").await.unwrap(), "the new value");
    drop(filler);
    full::takes_writes_again(&records).await;
}

#[tokio::test]
async fn an_object_that_finds_the_disk_full_is_refused_and_leaves_the_disk_as_it_was() {
    let disk = full::Disk::mount(8 << 20);
    let records: Arc<dyn Records> = Arc::new(Embedded::open(&disk.path().join("records")).unwrap());
    let objects = Arc::new(Files::open(&disk.path().join("objects")).unwrap());
    let blobs = bismuth_store::blobs::Blobs::new(records, objects, Default::default());
    let small = crate::blobs::body(&[b"small"]);
    blobs.put(crate::blobs::new("key"), small).await.unwrap();

    let chunk = vec![7; 64 << 10];
    let chunks = vec![chunk.as_slice(); 160];
    let large = crate::blobs::body(&chunks);
    let error = blobs.put(crate::blobs::new("key"), large).await;
    let Err(bismuth_store::blobs::PutError::Engine(error)) = error else {
        panic!("{error:?}");
    };
    full::assert_is_full(&error);
    assert_eq!(files_below(&disk.path().join("objects")).len(), 1);
    assert_eq!(crate::blobs::read(&blobs, "key").await.unwrap(), b"small");
    let small = crate::blobs::body(&[b"smaller"]);
    blobs.put(crate::blobs::new("key"), small).await.unwrap();
}

/// A small file system of its own.
mod full {
    use std::fs::File;
    use std::io::Write as _;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use bismuth_store::records::{EngineError, Records};
    use bismuth_testkit::{eventually, run};
    use rustix::mount::{MountFlags, mount};

    use crate::test_engines::{EVENTUALLY_TIMEOUT, make, put};

    pub struct Disk(PathBuf);

    impl Disk {
        pub fn mount(bytes: u64) -> Self {
            let dir = run::subdir("full-disk").unwrap();
            let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
            let flags = MountFlags::empty();
            mount("tmpfs", &dir, "tmpfs", flags, options.as_c_str()).unwrap();
            Self(dir)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }

        /// Takes all the room there is, until it is dropped.
        pub fn fill(&self) -> Filler {
            let path = self.0.join("filler");
            let mut file = File::create(&path).unwrap();
            while file.write_all(&[0; 4096]).is_ok() {}
            Filler(path)
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            if let Err(error) = run::remove(&self.0) {
                eprintln!("the full disk: {error:#}");
            }
        }
    }

    pub struct Filler(PathBuf);

    impl Drop for Filler {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).unwrap();
        }
    }

    /// Puts records until there is no room; returns their keys.
    pub async fn fill(records: &Arc<dyn Records>, name: &str) -> Vec<String> {
        let mut stored = Vec::new();
        loop {
            let key = format!("{name}-{}", stored.len());
            match make(records, put(&key, vec![7; 200 << 10])).await {
                Ok(_) => stored.push(key),
                Err(error) => {
                    assert_is_full(&error);
                    return stored;
                }
            }
        }
    }

    pub fn assert_is_full(error: &EngineError) {
        assert!(matches!(error, EngineError::Full { .. }), "{error:?}");
    }

    pub async fn takes_writes_again(records: &Arc<dyn Records>) {
        eventually("a write is made", EVENTUALLY_TIMEOUT, async || {
            make(records, put("kept", "the new value")).await
        })
        .await;
    }
}
