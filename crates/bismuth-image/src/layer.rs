//! Builds layers: tars of changes, compressed or not.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

use crate::blob::{Blob, digest_of};

/// How a layer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// A plain tar.
    #[default]
    None,
    /// gzip, as most registries hold.
    Gzip,
    /// Zstandard. The frame holds stored blocks only, which every decoder must accept.
    Zstd,
}

/// What is added, changed or removed by one layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    pub(crate) entries: Vec<Entry>,
    pub(crate) compression: Compression,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(String),
}

impl Changes {
    /// The layer and the digest of its uncompressed tar (its "diff id").
    pub(crate) fn pack(&self) -> Result<(Blob, String)> {
        let mut tar = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            append(&mut tar, entry).with_context(|| format!("add {} to a layer", entry.path))?;
        }
        let tar = tar.into_inner().context("finish a layer")?;
        let diff_id = digest_of(&tar);
        let blob = match self.compression {
            Compression::None => Blob::from_bytes("application/vnd.oci.image.layer.v1.tar", tar),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&tar).context("compress a layer")?;
                let packed = encoder.finish().context("compress a layer")?;
                Blob::from_bytes("application/vnd.oci.image.layer.v1.tar+gzip", packed)
            }
            Compression::Zstd => Blob::from_bytes(
                "application/vnd.oci.image.layer.v1.tar+zstd",
                zstd_stored(&tar),
            ),
        };
        Ok((blob, diff_id))
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.owner.0);
    header.set_gid(entry.owner.1);
    header.set_mtime(0); // the same image always has the same digest
    header.set_size(0);
    let path = entry.path.trim_start_matches('/');
    match &entry.kind {
        Kind::Directory => {
            header.set_entry_type(EntryType::Directory);
            tar.append_data(
                &mut header,
                format!("{}/", path.trim_end_matches('/')),
                std::io::empty(),
            )?;
        }
        Kind::File(content) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content.as_slice())?;
        }
        Kind::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, path, target)?;
        }
    }
    Ok(())
}

/// A Zstandard frame of stored ("raw") blocks: RFC 8878, sections 3.1.1 and 3.1.1.2.
fn zstd_stored(bytes: &[u8]) -> Vec<u8> {
    const MAGIC: u32 = 0xFD2F_B528;
    /// `Frame_Content_Size_flag` 3 (eight bytes), no checksum, window descriptor present.
    const DESCRIPTOR: u8 = 0b1100_0000;
    /// Exponent 10: a window of 1 MiB, well within what decoders accept.
    const WINDOW: u8 = 10 << 3;
    /// No block may be larger than 128 KiB.
    const BLOCK: usize = 128 * 1024;

    let mut frame = MAGIC.to_le_bytes().to_vec();
    frame.extend_from_slice(&[DESCRIPTOR, WINDOW]);
    frame.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    let mut chunks = bytes.chunks(BLOCK).peekable();
    if chunks.peek().is_none() {
        frame.extend_from_slice(&[1, 0, 0]); // one empty block, marked as the last
    }
    while let Some(chunk) = chunks.next() {
        let last = u32::from(chunks.peek().is_none());
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a chunk is at most 128 KiB"
        )]
        let header = (chunk.len() as u32) << 3 | last; // type 0 (raw) in bits 1 and 2
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(chunk);
    }
    frame
}
