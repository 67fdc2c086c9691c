//! Atomic and durable file writes: a reader finds the old bytes or the new ones, also after a crash or a loss of power.
//!
//! ```text
//!   write PATH.new ── force it to disk ── rename over PATH ── force the directory to disk
//!                                              └ replace          └ replace_durably
//! ```
//!
//! `.new` takes the place of the extension. There is one writer per file; what a crash left of an earlier attempt is overwritten.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Puts a file with these bytes and this mode (less the umask) in the place of what is there. After a loss of power it may be the
/// old one again.
///
/// # Errors
/// What the system said; the file that was there is as it was.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    // Made anew, because a file that is there would keep its mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// The same, and when it returns the new file also outlives a loss of power.
///
/// # Errors
/// What the system said; the file is the old one or the new one.
pub fn replace_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode)?;
    sync_parent(path)
}

/// Forces to disk that a name is there, or is not. Syncing the file does not do that (fsync(2)).
///
/// # Errors
/// What the system said.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    sync_dir(parent(path))
}

/// Forces the names in a directory to disk.
///
/// # Errors
/// What the system said.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory and its parents, for this user alone, and forces their names to disk. One that is there is left as it is.
///
/// # Errors
/// What the system said; some of the parents may have been made.
pub fn create_dir_all_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    create_dir_all_durably(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        // Somebody else was quicker, and may not have come to the next line.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    sync_dir(parent)
}

/// The directory that holds a name: the working directory for a bare one, and the root for itself.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ if path.is_absolute() => path,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_bytes_and_mode_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "a longer old text").unwrap();
        fs::write(dir.path().join("a.new"), "what a crash left behind").unwrap();
        replace_durably(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "old").unwrap();
        fs::create_dir(dir.path().join("a.new")).unwrap();
        assert!(replace(&path, b"new", 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn a_directory_is_made_with_its_parents_and_again_without_harm() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all_durably(&deep).unwrap();
        create_dir_all_durably(&deep).unwrap();
        assert_eq!(fs::metadata(&deep).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_in_the_way_of_a_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(create_dir_all_durably(&file.join("below")).is_err());
    }

    #[test]
    fn the_parent_of_a_bare_name_is_the_working_directory() {
        for (path, expected) in [("a", "."), ("/a", "/"), ("/", "/"), ("a/b", "a")] {
            assert_eq!(parent(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
