//! A log that is rotated by size and keeps a fixed number of files.
//!
//! ```text
//!  append ─► 0.log ──full──► 1.log ──► 2.log ──► gone
//! ```
//!
//! Renaming instead of truncating keeps a follower's open file valid: it reads the renamed file to
//! its end and then opens the new `0.log`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// How much is kept of one container's output.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes at which a file is full.
    pub file_bytes: u64,
    /// Files kept, the current one included.
    pub files: usize,
}

/// 10 MiB × 3, as container runtimes keep by default (kubelet: 10 MiB × 5).
impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 10 << 20,
            files: 3,
        }
    }
}

/// What could not be done to which file.
#[derive(Debug, Error)]
#[error("{act} {}", path.display())]
pub struct LogFileError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The writing end of one container's log.
#[derive(Debug)]
pub struct RotatingLog {
    dir: PathBuf,
    limits: Limits,
    file: File,
    written: u64,
}

/// The path of the `index`th newest file of the log in `dir`.
pub fn file_path(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("{index}.log"))
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogFileError {
    let path = path.to_owned();
    move |source| LogFileError { act, path, source }
}

fn open(path: &Path) -> Result<File, LogFileError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed("open log file", path))
}

impl RotatingLog {
    /// Opens the log in `dir`, making the directory; what is already there is continued.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, LogFileError> {
        std::fs::create_dir_all(dir).map_err(failed("make log directory", dir))?;
        let path = file_path(dir, 0);
        let file = open(&path)?;
        let written = file
            .metadata()
            .map_err(failed("measure log file", &path))?
            .len();
        Ok(Self {
            dir: dir.to_owned(),
            limits,
            file,
            written,
        })
    }

    /// Appends whole records. They go into one file, so a record is never cut by rotation.
    pub fn append(&mut self, records: &[u8]) -> Result<(), LogFileError> {
        let bytes = records.len() as u64;
        if self.written > 0 && self.written + bytes > self.limits.file_bytes {
            self.rotate()?;
        }
        self.file
            .write_all(records)
            .map_err(failed("write log file", &file_path(&self.dir, 0)))?;
        self.written += bytes;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), LogFileError> {
        for index in (0..self.limits.files.saturating_sub(1)).rev() {
            let from = file_path(&self.dir, index);
            match std::fs::rename(&from, file_path(&self.dir, index + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("rotate log file", &from)(e));
                }
                _ => {}
            }
        }
        let path = file_path(&self.dir, 0);
        if self.limits.files <= 1 {
            std::fs::remove_file(&path).map_err(failed("remove log file", &path))?;
        }
        self.file = open(&path)?;
        self.written = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(dir: &Path) -> Vec<(String, u64)> {
        let size = |entry: io::Result<std::fs::DirEntry>| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, entry.metadata().unwrap().len())
        };
        let mut sizes: Vec<_> = std::fs::read_dir(dir).unwrap().map(size).collect();
        sizes.sort();
        sizes
    }

    #[test]
    fn only_the_newest_files_are_kept_and_none_grows_past_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            file_bytes: 100,
            files: 3,
        };
        let mut log = RotatingLog::open(dir.path(), limits).unwrap();
        for _ in 0..50 {
            log.append(&[b'x'; 30]).unwrap();
        }
        let sizes = sizes(dir.path());
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|(_, size)| *size <= 100), "{sizes:?}");
    }

    #[test]
    fn a_log_is_appended_to_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut log = RotatingLog::open(dir.path(), Limits::default()).unwrap();
            log.append(b"line\n").unwrap();
        }
        assert_eq!(sizes(dir.path()), [("0.log".to_owned(), 10)]);
    }

    #[test]
    fn a_log_of_one_file_rotates_too() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            file_bytes: 10,
            files: 1,
        };
        let mut log = RotatingLog::open(dir.path(), limits).unwrap();
        for _ in 0..5 {
            log.append(b"12345678").unwrap();
        }
        assert_eq!(sizes(dir.path()), [("0.log".to_owned(), 8)]);
    }
}
