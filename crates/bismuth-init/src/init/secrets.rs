//! Writes injected secrets to files.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::Path,
};

use std::ffi::OsStr;

use crate::protocol::{FailureKind, Reply, SecretFile};

/// Readable by the function's user only.
const MODE: u32 = 0o400;

/// Writes every file into `directory`; the failure names the one that could not be.
pub(super) fn write(directory: &Path, files: &[SecretFile]) -> Result<(), Reply> {
    for file in files {
        let path = directory.join(OsStr::from_bytes(file.name.as_bytes()));
        write_one(&path, &file.content).map_err(|error| Reply::SpawnFailed {
            kind: FailureKind::Other,
            errno: error.raw_os_error().unwrap_or(0),
            what: format!("write {}: {error}", path.display()),
        })?;
    }
    Ok(())
}

fn write_one(path: &Path, content: &[u8]) -> io::Result<()> {
    // A file of an earlier injection is replaced whole: what is open goes on as it was.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(content: &[u8]) -> SecretFile {
        SecretFile {
            name: c"key".into(),
            content: content.to_vec(),
        }
    }

    #[test]
    fn a_later_injection_replaces_a_file_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        for content in [&b"first"[..], b"2nd"] {
            write(directory.path(), &[file(content)]).unwrap();
            let path = directory.path().join("key");
            assert_eq!(fs::read(&path).unwrap(), content);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, MODE);
        }
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let failure = write(Path::new("/nonexistent"), &[file(b"x")]).unwrap_err();
        let Reply::SpawnFailed { errno, what, .. } = failure else {
            panic!("{failure:?}");
        };
        assert_eq!(errno, libc::ENOENT);
        assert!(what.starts_with("write /nonexistent/key"), "{what}");
    }
}
