//! Reads image files, a directory or an uncompressed tar, as a set of named entries.
//!
//! A tar is scanned once for where its entries are and then read by seeking, because `index.json` may stand at its end and
//! blobs in any order. Nothing is unpacked to disk.

use std::collections::HashMap;
use std::io::SeekFrom;
use std::path::{Component, Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, Take};

use super::error::{ImageError, Result};

/// Far more than an image has; bounds the memory for a hostile archive's directory.
const ENTRIES_MAX: usize = 100_000;
/// gzip's and zstd's first bytes (RFC 1952, RFC 8878).
const COMPRESSED: [&[u8]; 2] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]];

/// An image file or directory.
pub(crate) struct Archive {
    path: PathBuf,
    entries: Entries,
}

enum Entries {
    Directory,
    Tar(HashMap<String, Entry>),
}

enum Entry {
    File { offset: u64, size: u64 },
    Link(String),
}

impl Archive {
    pub async fn open(path: &Path) -> Result<Self> {
        let read_failed = ImageError::file("read", path);
        let metadata = tokio::fs::metadata(path).await.map_err(&read_failed)?;
        let entries = if metadata.is_dir() {
            Entries::Directory
        } else {
            let owned = path.to_owned();
            let scan = tokio::task::spawn_blocking(move || scan(&owned));
            Entries::Tar(
                scan.await
                    .map_err(|died| read_failed(std::io::Error::other(died)))??,
            )
        };
        Ok(Self {
            path: path.to_owned(),
            entries,
        })
    }

    /// How the archive is called in messages.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub fn error(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Archive {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    pub fn read_failed(&self, source: std::io::Error) -> ImageError {
        ImageError::file("read", &self.path)(source)
    }

    /// An entry's content and its size in bytes, or `None` if there is no such entry.
    pub async fn entry(&self, name: &str) -> Result<Option<(Take<File>, u64)>> {
        match &self.entries {
            Entries::Directory => self.file_in_directory(name).await,
            Entries::Tar(entries) => {
                let mut name = name.to_owned();
                // `docker save` of old shares layers by symbolic links; a chain of them does not occur.
                if let Some(Entry::Link(target)) = entries.get(&name) {
                    name.clone_from(target);
                }
                let Some(Entry::File { offset, size }) = entries.get(&name) else {
                    return Ok(None);
                };
                let mut file = File::open(&self.path)
                    .await
                    .map_err(|e| self.read_failed(e))?;
                file.seek(SeekFrom::Start(*offset))
                    .await
                    .map_err(|e| self.read_failed(e))?;
                Ok(Some((file.take(*size), *size)))
            }
        }
    }

    async fn file_in_directory(&self, name: &str) -> Result<Option<(Take<File>, u64)>> {
        // Names come out of the archive's own documents.
        if !Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            return Err(self.error(format!("{name:?} is not a path within the image")));
        }
        let file = match File::open(self.path.join(name)).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.read_failed(error)),
        };
        let size = file
            .metadata()
            .await
            .map_err(|e| self.read_failed(e))?
            .len();
        Ok(Some((file.take(size), size)))
    }

    /// A whole small entry, or `None` if there is no such entry.
    pub async fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some((mut reader, size)) = self.entry(name).await? else {
            return Ok(None);
        };
        if size > limit {
            return Err(self.error(format!("{name} has {size} bytes; at most {limit} are read")));
        }
        let mut data = Vec::new();
        reader
            .read_to_end(&mut data)
            .await
            .map_err(|e| self.read_failed(e))?;
        Ok(Some(data))
    }
}

fn scan(path: &Path) -> Result<HashMap<String, Entry>> {
    let read_failed = ImageError::file("read", path);
    let refuse = |reason: &str| ImageError::Archive {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let mut file = std::fs::File::open(path).map_err(&read_failed)?;
    let mut first = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(&mut file, 4), &mut first)
        .map_err(&read_failed)?;
    if COMPRESSED.iter().any(|magic| first.starts_with(magic)) {
        return Err(refuse(
            "a compressed archive; decompress it first (its layers may stay compressed)",
        ));
    }
    std::io::Seek::rewind(&mut file).map_err(&read_failed)?;
    let mut entries = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(&read_failed)? {
        let entry = entry.map_err(|error| refuse(&format!("not a tar archive: {error}")))?;
        let Some(name) = normal(&entry.path().map_err(&read_failed)?) else {
            continue;
        };
        let kind = entry.header().entry_type();
        let found = if kind.is_file() {
            Entry::File {
                offset: entry.raw_file_position(),
                size: entry.size(),
            }
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry
                .link_name()
                .map_err(&read_failed)?
                .unwrap_or_default()
                .into_owned();
            // A symbolic link's target is relative to its directory, a hard link's to the archive's root.
            let base = if kind.is_symlink() {
                Path::new(&name).parent().unwrap_or(Path::new(""))
            } else {
                Path::new("")
            };
            match normal(&base.join(target)) {
                Some(target) => Entry::Link(target),
                None => continue,
            }
        } else {
            continue;
        };
        if entries.len() == ENTRIES_MAX {
            return Err(refuse("too many entries for an image"));
        }
        entries.insert(name, found);
    }
    Ok(entries)
}

/// A path without `.` and with `..` resolved, as text; `None` if it leads out of the archive.
fn normal(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_normal_and_may_not_lead_out() {
        assert_eq!(normal(Path::new("./a/../b/./c")), Some("b/c".to_owned()));
        assert_eq!(normal(Path::new("../a")), None);
        assert_eq!(normal(Path::new("/a")), None);
    }

    #[tokio::test]
    async fn entries_of_a_tar_are_found_wherever_they_stand_and_through_links() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("image.tar");
        let mut builder = tar::Builder::new(std::fs::File::create(&path).expect("create"));
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder
            .append_data(&mut header.clone(), "./x/layer.tar", &b"hello"[..])
            .expect("file");
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        builder
            .append_link(&mut header, "y/layer.tar", "../x/layer.tar")
            .expect("link");
        builder.finish().expect("finish");

        let archive = Archive::open(&path).await.expect("open");
        for name in ["x/layer.tar", "y/layer.tar"] {
            assert_eq!(
                archive.read(name, 10).await.expect("read"),
                Some(b"hello".to_vec()),
                "{name}"
            );
        }
        assert_eq!(archive.read("z", 10).await.expect("read"), None);
        assert!(archive.read("x/layer.tar", 4).await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_plain_tar_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("x");
        std::fs::write(&path, [0x1f, 0x8b, 8, 0, 0, 0]).expect("write");
        let error = Archive::open(&path).await.err().expect("compressed");
        assert!(error.to_string().contains("decompress it first"), "{error}");
        std::fs::write(&path, vec![b'x'; 2048]).expect("write");
        let error = Archive::open(&path).await.err().expect("not a tar");
        assert!(error.to_string().contains("not a tar archive"), "{error}");
        let archive = Archive::open(dir.path()).await.expect("directory");
        assert!(archive.read("../etc/passwd", 10_000).await.is_err());
    }
}
