//! The keyring: master keys in a file that its owner alone may read.
//!
//! ```text
//!   # comment
//!   id  base64-of-32-bytes        the current one: data keys are sealed under it
//!   id  base64-of-32-bytes        older ones: what is sealed under them can be opened
//! ```

mod file;
mod text;

use std::path::{Path, PathBuf};
use std::{fmt, io};

use thiserror::Error;

pub use text::Malformed;

use super::seal::{NoRandom, SealKey};

/// The master keys of a file, as it was when it was read.
pub struct Keyring {
    path: PathBuf,
    current: MasterKey,
    older: Vec<MasterKey>,
}

/// A key that data keys are sealed under.
pub struct MasterKey {
    pub(super) id: String,
    pub(super) key: SealKey,
}

/// Why a file of master keys cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum KeyringError {
    #[error(
        "there is no file of master keys {}: start with --create-master-key to make one, or copy the one that the secrets were sealed under",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("read the master keys in {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a file of master keys", path.display())]
    NotAFile { path: PathBuf },
    #[error(
        "others than its owner may use the master keys in {} (mode {mode:04o}): chmod 600 it, and replace keys that somebody may have read",
        path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    /// They belong to neither this process nor root.
    #[error("the master keys in {} belong to the user {uid}: chown it to the user of this process", path.display())]
    Foreign { path: PathBuf, uid: u32 },
    #[error("{} is too long for a file of master keys", path.display())]
    TooLong { path: PathBuf },
    #[error("the master keys in {} cannot be used: {malformed}", path.display())]
    Malformed { path: PathBuf, malformed: Malformed },
    #[error("make a file of master keys {}: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

impl Keyring {
    /// Reads the master keys of a file.
    ///
    /// # Errors
    /// As [`KeyringError`] says.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        let text = file::read(path)?;
        let (current, older) = text::parse(&text).map_err(|malformed| KeyringError::Malformed {
            path: path.to_owned(),
            malformed,
        })?;
        Ok(Self {
            path: path.to_owned(),
            current,
            older,
        })
    }

    /// Makes a file with one new master key.
    ///
    /// # Errors
    /// When it is there already, or cannot be made.
    pub fn create(path: &Path) -> Result<Self, KeyringError> {
        let current = MasterKey::random()?;
        let text = text::write(&current);
        file::create(path, text.as_bytes()).map_err(|source| KeyringError::Create {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            current,
            older: Vec::new(),
        })
    }

    /// Reads the master keys of a file, which is made if it is not there.
    ///
    /// # Errors
    /// As [`KeyringError`] says.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyringError> {
        match Self::load(path) {
            Err(KeyringError::Missing { .. }) => {}
            loaded => return loaded,
        }
        match Self::create(path) {
            // Another process was quicker.
            Err(KeyringError::Create { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                Self::load(path)
            }
            created => created,
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key that data keys are sealed under.
    #[must_use]
    pub fn current(&self) -> &MasterKey {
        &self.current
    }

    /// The key with an id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&MasterKey> {
        self.all().find(|key| key.id == id)
    }

    fn all(&self) -> impl Iterator<Item = &MasterKey> {
        std::iter::once(&self.current).chain(&self.older)
    }
}

impl MasterKey {
    fn random() -> Result<Self, NoRandom> {
        let mut id = [0; 4];
        super::seal::fill(&mut id)?;
        Ok(Self {
            id: format!("mk-{:08x}", u32::from_be_bytes(id)),
            key: SealKey::random()?,
        })
    }

    /// What it is called.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Without the keys.
impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({:?})", self.id)
    }
}

/// Without the keys.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.all().map(MasterKey::id).collect();
        f.debug_struct("Keyring")
            .field("path", &self.path)
            .field("ids", &ids)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A directory, and where master keys would be in it.
    fn dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/master.keys");
        (dir, path)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_is_made_for_its_owner_alone_and_read_again() {
        let (_dir, path) = dir();
        let made = Keyring::load_or_create(&path).unwrap();
        let read = Keyring::load_or_create(&path).unwrap();
        assert_eq!(made.current().id(), read.current().id());
        assert_eq!(made.current().key.expose(), read.current().key.expose());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let beside = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(beside, 1, "a draft was left");
    }

    #[test]
    fn a_file_that_is_there_is_not_made_again() {
        let (_dir, path) = dir();
        let made = Keyring::create(&path).unwrap();
        let error = Keyring::create(&path).unwrap_err();
        assert!(matches!(error, KeyringError::Create { .. }), "{error}");
        let read = Keyring::load(&path).unwrap();
        assert_eq!(read.current().id(), made.current().id());
    }

    #[test]
    fn a_missing_file_is_not_made_unasked() {
        let error = Keyring::load(&dir().1).unwrap_err();
        assert!(error.to_string().contains("--create-master-key"), "{error}");
        assert!(matches!(error, KeyringError::Missing { .. }));
    }

    #[test]
    fn a_file_that_others_may_use_is_refused_also_behind_a_link() {
        let (dir, path) = dir();
        Keyring::create(&path).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Keyring::load(&link).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601, 0o666] {
            set_mode(&path, mode);
            for path in [&path, &link] {
                let error = Keyring::load(path).unwrap_err();
                assert!(matches!(error, KeyringError::Exposed { mode: its, .. } if its == mode));
                let said = error.to_string();
                assert!(said.contains(&path.display().to_string()), "{said}");
                assert!(said.contains("chmod 600"), "{said}");
            }
        }
        set_mode(&path, 0o400);
        Keyring::load(&link).unwrap();
    }

    #[test]
    fn what_is_no_file_or_too_long_is_refused() {
        let (dir, _) = dir();
        let error = Keyring::load(dir.path()).unwrap_err();
        assert!(matches!(error, KeyringError::NotAFile { .. }), "{error}");

        let path = dir.path().join("long");
        fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
        set_mode(&path, 0o600);
        let error = Keyring::load(&path).unwrap_err();
        assert!(matches!(error, KeyringError::TooLong { .. }), "{error}");
    }

    #[test]
    fn an_error_and_a_keyring_show_no_key() {
        let (_dir, path) = dir();
        let ring = Keyring::create(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let key = text.split_whitespace().next_back().unwrap();
        assert!(!format!("{ring:?}{:?}", ring.current()).contains(key));
        assert!(format!("{ring:?}").contains(ring.current().id()));

        fs::write(&path, format!("{text}{text}")).unwrap();
        let error = Keyring::load(&path).unwrap_err();
        assert!(!format!("{error}{error:?}").contains(key), "{error}");
    }
}
