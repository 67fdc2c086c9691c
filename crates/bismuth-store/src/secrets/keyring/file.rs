//! Reads and creates the file of master keys, and checks its permissions.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use bismuth_base::file;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::KeyringError;
use crate::secrets::seal;

/// Some thousand keys. Who has more has given the wrong file.
const MAX_BYTES: usize = 256 << 10;

/// What is in the file, if only its owner may use it.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyringError::Missing {
            path: path.to_owned(),
        },
        _ => KeyringError::Read {
            path: path.to_owned(),
            source,
        },
    };
    // What was opened is what is checked, whatever the name leads to afterwards; a pipe does not make it wait.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(unreadable)?;
    check(path, &file.metadata().map_err(unreadable)?)?;
    // With room for all, so that no half of it is left where it was moved from.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 64));
    let limit = MAX_BYTES as u64 + 1;
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > MAX_BYTES {
        return Err(KeyringError::TooLong {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

fn check(path: &Path, metadata: &fs::Metadata) -> Result<(), KeyringError> {
    let path = || path.to_owned();
    if !metadata.is_file() {
        return Err(KeyringError::NotAFile { path: path() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyringError::Exposed { path: path(), mode });
    }
    let uid = metadata.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(KeyringError::Foreign { path: path(), uid });
    }
    Ok(())
}

/// Makes the file with these bytes, or leaves the one that is there. After a crash there is all of it or nothing of that name.
pub(super) fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    file::create_dir_all_durably(file::parent(path))?;
    let mut random = [0; 8];
    seal::fill(&mut random).map_err(io::Error::other)?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}", u64::from_be_bytes(random)));
    let draft = Path::new(&draft);
    // A link, unlike a rename, does not replace what is there.
    let made = write_new(draft, bytes).and_then(|()| fs::hard_link(draft, path));
    let removed = fs::remove_file(draft);
    made?;
    removed?;
    file::sync_parent(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
