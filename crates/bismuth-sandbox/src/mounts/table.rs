//! Parses the mount table, `/proc/â¦/mountinfo`, in the format of proc_pid_mountinfo(5).

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::PathError;

/// One line of a mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Id of the mount, unique while it exists.
    pub id: u64,
    /// Id of the mount that it is mounted on.
    pub parent: u64,
    /// Device number of the filesystem, `major:minor`.
    pub device: String,
    /// The directory within the filesystem that is mounted.
    pub root: PathBuf,
    /// Where it is mounted.
    pub path: PathBuf,
    /// Whether mounts under it propagate to its peers and slaves.
    pub shared: bool,
    /// Type of the filesystem, as `ext4`.
    pub fs_type: String,
    /// Options of the filesystem, separated by commas.
    pub super_options: String,
}

/// The mount table of the calling thread's mount namespace.
///
/// # Errors
/// As [`Error`] says.
pub fn table() -> Result<Vec<MountPoint>, Error> {
    read(Path::new("/proc/thread-self/mountinfo"))
}

/// The mount table that a process sees.
///
/// # Errors
/// As [`Error`] says.
pub fn table_of(pid: u32) -> Result<Vec<MountPoint>, Error> {
    read(Path::new(&format!("/proc/{pid}/mountinfo")))
}

fn read(path: &Path) -> Result<Vec<MountPoint>, Error> {
    let text = fs::read(path).map_err(PathError::at("read mount table", path))?;
    parse(&text)
}

pub(super) fn parse(text: &[u8]) -> Result<Vec<MountPoint>, Error> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| Error::MalformedTable {
                line: String::from_utf8_lossy(line).into_owned(),
            })
        })
        .collect()
}

/// `id parent major:minor root path options [optional fields…] - type source super-options`
fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = text(fields.next()?);
    let root = unescape(fields.next()?);
    let path = unescape(fields.next()?);
    let _options = fields.next()?;
    let mut shared = false;
    loop {
        match fields.next()? {
            b"-" => break,
            optional => shared |= optional.starts_with(b"shared:"),
        }
    }
    let fs_type = text(fields.next()?);
    let _source = fields.next()?;
    Some(MountPoint {
        id,
        parent,
        device,
        root,
        path,
        shared,
        fs_type,
        super_options: text(fields.next()?),
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Undoes the kernel's `\ooo` (three octal digits) for space, tab, newline, backslash and hash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match rest {
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The mounts at and under `dir`, those mounted on others of them first.
pub(super) fn deepest_first(mounts: Vec<MountPoint>, dir: &Path) -> Vec<MountPoint> {
    let depth = depths(&mounts);
    let mut found: Vec<_> = mounts
        .into_iter()
        .filter(|mount| mount.path.starts_with(dir))
        .collect();
    found.sort_by_key(|mount| std::cmp::Reverse(depth.get(&mount.id).copied().unwrap_or(0)));
    found
}

/// The mount that a path lies on: the longest mount point above it, and of several at one place
/// the one on top.
pub(super) fn mount_containing<'a>(
    mounts: &'a [MountPoint],
    path: &Path,
) -> Option<&'a MountPoint> {
    let depth = depths(mounts);
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.path))
        .max_by_key(|mount| (mount.path.components().count(), depth.get(&mount.id)))
}

/// How many mounts lie below each one on the way to the root of the tree.
fn depths(mounts: &[MountPoint]) -> HashMap<u64, usize> {
    let parents: HashMap<u64, u64> = mounts.iter().map(|m| (m.id, m.parent)).collect();
    let depth = |id: u64| {
        // The root's parent is not in the table, or is the root itself.
        let step = |id: &u64| parents.get(id).copied().filter(|parent| parent != id);
        std::iter::successors(Some(id), step)
            .take(mounts.len() + 1)
            .count()
    };
    mounts.iter().map(|m| (m.id, depth(m.id))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &[u8] = b"\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
90 27 0:44 / /s/a\\040b rw shared:5 master:2 - tmpfs none rw,size=4k
91 90 0:45 / /s/a\\040b/root rw - overlay overlay rw,lowerdir=/l
92 91 0:45 / /s/a\\040b/root rw - overlay overlay rw,lowerdir=/m
93 27 254:0 /var/lib /var/lib rw shared:9 - ext4 /dev/vda rw
";

    #[test]
    fn lines_are_read_with_escapes_and_optional_fields() {
        let mounts = parse(TABLE).expect("well-formed");
        assert_eq!(mounts[2].path, Path::new("/s/a b"));
        assert!(mounts[2].shared && !mounts[3].shared);
        assert_eq!(mounts[0].fs_type, "ext4");
        assert_eq!(mounts[0].super_options, "rw,discard");
    }

    #[test]
    fn stacked_mounts_come_before_what_they_cover() {
        let mounts = parse(TABLE).expect("well-formed");
        let ids = |dir: &str| -> Vec<u64> {
            deepest_first(mounts.clone(), Path::new(dir))
                .iter()
                .map(|m| m.id)
                .collect()
        };
        assert_eq!(ids("/s"), [92, 91, 90]);
        assert_eq!(
            ids("/s/a b/roo"),
            [0u64; 0],
            "a prefix of a name is no parent"
        );
        let holder = mount_containing(&mounts, Path::new("/s/a b/root/etc")).expect("held");
        assert_eq!(holder.id, 92);
        assert_eq!(
            mount_containing(&mounts, Path::new("/home"))
                .expect("held")
                .id,
            27
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
