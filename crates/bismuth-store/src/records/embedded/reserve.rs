//! Disk space in reserve: a file that is removed when the disk is full, so that deletions can still be committed.
//!
//! redb writes a changed page to a new place, so that on a full disk not even a deletion could be made. A file of zeros takes up what some
//! deletions need; when the disk is full it goes, and it is made again when there is room.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Some hundred pages: a deletion changes some ten, and what it frees can be used by the one after the next.
const BYTES: usize = 2 << 20;

/// The file of zeros.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    /// The reserve of a directory, made if there is room for it.
    pub(super) fn in_dir(dir: &Path) -> Self {
        let mut reserve = Self {
            path: dir.join("reserve"),
            held: false,
        };
        reserve.hold();
        reserve
    }

    /// Makes it again if it is not there.
    pub(super) fn hold(&mut self) {
        if self.held {
            return;
        }
        match fill(&self.path) {
            Ok(()) => self.held = true,
            Err(error) => {
                // Half of it would be room that nobody has.
                self.remove();
                tracing::debug!(%error, path = %self.path.display(), "there is no room for a reserve");
            }
        }
    }

    /// Gives the room away; whether there was any.
    pub(super) fn release(&mut self) -> bool {
        std::mem::take(&mut self.held) && self.remove()
    }

    fn remove(&self) -> bool {
        match fs::remove_file(&self.path) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "the reserve is not removed");
                false
            }
        }
    }
}

fn fill(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() == BYTES as u64) {
        return Ok(());
    }
    let mut file = File::create(path)?;
    for _ in 0..BYTES / 4096 {
        file.write_all(&[0; 4096])?;
    }
    file.sync_all()
}
