//! Objects as files in a directory of one machine.
//!
//! ```text
//!   DIR/4e/…4e.part   while it is written ─► fsync ─► rename ─► fsync of the directory ─► DIR/4e/…4e
//! ```
//!
//! 256 directories, because one with a million names is slow to work with for those who back it up. Files are written and read on threads that may
//! wait for the disk, some ten KiB at a time: an object of any size takes that much memory.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bismuth_base::file;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};

use super::{ObjectId, ObjectWriter, Objects};
use crate::records::{EngineError, is_full};

/// What errors call this engine.
const ENGINE: &str = "the object directory";
/// Bytes that are handed to another thread at once, and that each transfer has in memory: the handing costs some microseconds, the writing of
/// so many some ten.
const CHUNK: usize = 64 << 10;
const SHARDS: u128 = 256;
/// The longest that it takes to open a file, so that a client hears within a second that the disk hangs.
const OPEN_BOUND: Duration = Duration::from_millis(950);
/// The longest that it takes to read or write a chunk, or to force a file of any size to disk; a disk that takes longer hangs.
const TRANSFER_BOUND: Duration = Duration::from_secs(30);

/// Objects in a directory.
#[derive(Debug)]
pub struct Files {
    dir: Arc<Path>,
}

impl Files {
    /// Objects in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        file::create_dir_all_durably(dir)?;
        for shard in 0..SHARDS {
            match DirBuilder::new()
                .mode(0o700)
                .create(dir.join(shard_name(shard)))
            {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
        // All names at once, also those that an earlier process made and did not come to force to disk.
        file::sync_dir(dir)?;
        Ok(Self { dir: dir.into() })
    }

    fn final_path(&self, id: ObjectId) -> PathBuf {
        // The last byte: ids may begin with a time.
        let shard = shard_name(id.0 % SHARDS);
        self.dir.join(format!("{shard}/{id}"))
    }
}

fn shard_name(shard: u128) -> String {
    format!("{shard:02x}")
}

fn partial_path(finished: &Path) -> PathBuf {
    finished.with_extension("part")
}

#[async_trait]
impl Objects for Files {
    async fn create(
        &self,
        id: ObjectId,
        _group: &str,
    ) -> Result<Box<dyn ObjectWriter>, EngineError> {
        let path = self.final_path(id);
        let file = apart(OPEN_BOUND, move || {
            let part = partial_path(&path);
            let mut options = File::options();
            options.write(true).create_new(true).mode(0o600);
            let file = options.open(&part)?;
            Ok(Part { file, path })
        });
        Ok(Box::new(Writer {
            part: Some(file.await?),
            waiting: BytesMut::new(),
        }))
    }

    async fn read(
        &self,
        id: ObjectId,
        range: Range<u64>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, EngineError>>>, EngineError> {
        let path = self.final_path(id);
        let file = apart(OPEN_BOUND, move || match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some),
        });
        let Some(file) = file.await? else {
            return Ok(None);
        };
        let chunks = stream::try_unfold((file, range), async |(file, range)| {
            if range.is_empty() {
                return Ok(None);
            }
            let wanted = usize::try_from(range.end - range.start).unwrap_or(CHUNK);
            let mut buffer = vec![0; wanted.min(CHUNK)];
            let (file, buffer) = apart(TRANSFER_BOUND, move || {
                file.read_exact_at(&mut buffer, range.start)?;
                Ok((file, buffer))
            })
            .await?;
            let rest = range.start + buffer.len() as u64..range.end;
            Ok(Some((Bytes::from(buffer), (file, rest))))
        });
        Ok(Some(Box::pin(chunks)))
    }

    async fn delete(&self, id: ObjectId) -> Result<(), EngineError> {
        let path = self.final_path(id);
        apart(TRANSFER_BOUND, move || {
            for path in [partial_path(&path), path] {
                match fs::remove_file(&path) {
                    // Forced to disk before the record that names it goes: a name that came back would have nobody to remove it.
                    Ok(()) => file::sync_parent(&path)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
        .await
    }

    async fn check(&self) -> Result<(), EngineError> {
        let dir = Arc::clone(&self.dir);
        apart(OPEN_BOUND, move || fs::metadata(&dir).map(drop)).await
    }
}

/// A file that is written.
struct Part {
    file: File,
    /// Where it goes.
    path: PathBuf,
}

struct Writer {
    /// `None` after an error, and while another thread has it.
    part: Option<Part>,
    waiting: BytesMut,
}

impl Writer {
    /// Writes what waits, and then does what comes after.
    async fn flush(
        &mut self,
        then: impl FnOnce(&Part) -> io::Result<()> + Send + 'static,
    ) -> Result<(), EngineError> {
        let bytes = self.waiting.split().freeze();
        let mut part = self
            .part
            .take()
            .ok_or_else(|| EngineError::broken(ENGINE, "an object is written on after an error"))?;
        let part = apart(TRANSFER_BOUND, move || {
            part.file.write_all(&bytes)?;
            then(&part)?;
            Ok(part)
        });
        self.part = Some(part.await?);
        Ok(())
    }
}

#[async_trait]
impl ObjectWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        for bytes in bytes.chunks(CHUNK) {
            self.waiting.extend_from_slice(bytes);
            if self.waiting.len() >= CHUNK {
                self.flush(|_| Ok(())).await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), EngineError> {
        self.flush(|part| {
            part.file.sync_all()?;
            fs::rename(partial_path(&part.path), &part.path)?;
            file::sync_parent(&part.path)
        })
        .await
    }
}

/// Does what may wait for the disk on a thread that may, and waits for it no longer than `bound`.
async fn apart<T: Send + 'static>(
    bound: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::time::timeout(bound, tokio::task::spawn_blocking(work)).await;
    let done = done.map_err(|_elapsed| {
        EngineError::unavailable(ENGINE, format!("the disk took more than {bound:?}"))
    })?;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| match is_full(&error) {
        true => EngineError::Full { engine: ENGINE },
        false => EngineError::unavailable(ENGINE, error.to_string()),
    })
}
