//! Resolves the user and group that a program runs as, with the image's own `/etc/passwd` and `/etc/group`.
//!
//! The image is somebody else's: files are opened below its root with `RESOLVE_IN_ROOT`, so that a
//! symbolic link in it cannot lead to a file of the host, and at most [`MAX_FILE`] bytes are read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use thiserror::Error;

/// Used when neither the definition nor the image names a user: not root, and the number that
/// most distributions give their first user.
const DEFAULT: (u32, u32) = (1000, 1000);

/// No real passwd file comes near it.
const MAX_FILE: u64 = 4 << 20;

/// Who a program is inside its container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id inside the container.
    pub uid: u32,
    /// Primary group id inside the container.
    pub gid: u32,
    /// Further groups, as the image's group file says.
    pub groups: Vec<u32>,
    /// Home directory, `/` if the image does not say.
    pub home: String,
}

/// Why there is no such user.
#[derive(Debug, Error)]
pub enum UserError {
    /// Neither a number nor a name in the image.
    #[error("there is no {kind} {name:?} in the image's {file}")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        name: String,
        file: &'static str,
    },
    /// The ids of the container's user namespace end before it.
    #[error("{kind} id {id} is above 65535, the last id that a container has")]
    OutOfRange {
        /// `user` or `group`.
        kind: &'static str,
        id: u32,
    },
    /// The file is there and cannot be read.
    #[error("read {file} of the image at {}", root.display())]
    Read {
        file: &'static str,
        root: PathBuf,
        source: io::Error,
    },
}

/// Resolves `wanted` (`user[:group]`, names or numbers) in the image mounted at `root`.
pub fn resolve(root: &Path, wanted: Option<&str>) -> Result<User, UserError> {
    let passwd = read_in_root(root, "/etc/passwd")?;
    let group = read_in_root(root, "/etc/group")?;
    lookup(wanted.filter(|w| !w.is_empty()), &passwd, &group)
}

fn lookup(wanted: Option<&str>, passwd: &str, group: &str) -> Result<User, UserError> {
    let (uid, gid, name, home) = match wanted {
        None => {
            let entry = passwd_entries(passwd).find(|e| e.uid == DEFAULT.0);
            let (uid, gid) = DEFAULT;
            (uid, gid, entry.map(|e| e.name), entry.map(|e| e.home))
        }
        Some(wanted) => {
            let (user, of_group) = wanted
                .split_once(':')
                .map_or((wanted, None), |(u, g)| (u, Some(g)));
            let number = user.parse::<u32>().ok();
            let entry = passwd_entries(passwd).find(|e| e.name == user || number == Some(e.uid));
            let uid = number
                .or(entry.map(|e| e.uid))
                .ok_or_else(|| UserError::Unknown {
                    kind: "user",
                    name: user.to_owned(),
                    file: "/etc/passwd",
                })?;
            let gid = match of_group {
                Some(of_group) => group_id(group, of_group)?,
                None => entry.map_or(0, |e| e.gid),
            };
            (uid, gid, entry.map(|e| e.name), entry.map(|e| e.home))
        }
    };
    for (kind, id) in [("user", uid), ("group", gid)] {
        if id > 65_535 {
            return Err(UserError::OutOfRange { kind, id });
        }
    }
    Ok(User {
        uid,
        gid,
        groups: name.map(|n| groups_of(group, n, gid)).unwrap_or_default(),
        home: home
            .filter(|h| h.starts_with('/'))
            .unwrap_or("/")
            .to_owned(),
    })
}

#[derive(Clone, Copy)]
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// `name:password:uid:gid:comment:home:shell`, passwd(5). Lines of another form are skipped.
fn passwd_entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some(PasswdEntry {
            name: fields.next()?,
            uid: fields.nth(1)?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
            home: fields.nth(1)?,
        })
    })
}

/// `name:password:gid:member,member`, group(5).
fn group_entries(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((
            name,
            fields.nth(1)?.parse().ok()?,
            fields.next().unwrap_or(""),
        ))
    })
}

fn group_id(group: &str, wanted: &str) -> Result<u32, UserError> {
    if let Ok(number) = wanted.parse() {
        return Ok(number);
    }
    let entry = group_entries(group).find(|(name, _, _)| *name == wanted);
    entry
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| UserError::Unknown {
            kind: "group",
            name: wanted.to_owned(),
            file: "/etc/group",
        })
}

fn groups_of(group: &str, user: &str, primary: u32) -> Vec<u32> {
    group_entries(group)
        .filter(|(_, gid, members)| {
            *gid != primary && *gid <= 65_535 && members.split(',').any(|m| m == user)
        })
        .map(|(_, gid, _)| gid)
        .collect()
}

/// The text of a file below `root`; empty if the image has none.
fn read_in_root(root: &Path, file: &'static str) -> Result<String, UserError> {
    let failed = |source: io::Error| UserError::Read {
        file,
        root: root.to_owned(),
        source,
    };
    let directory = rustix::fs::openat(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| failed(e.into()))?;
    // Non-blocking: a FIFO in the place of the file must not hold us up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::openat2(
        &directory,
        file,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    );
    let opened = match opened {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(e) => return Err(failed(e.into())),
    };
    let mut bytes = Vec::new();
    opened
        .take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1001:1002:,,,:/srv/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\napp:x:1002:\naudio:x:29:app,root\nvideo:x:44:app\n";

    fn ids(wanted: Option<&str>) -> (u32, u32) {
        let user = lookup(wanted, PASSWD, GROUP).unwrap();
        (user.uid, user.gid)
    }

    #[test]
    fn names_and_numbers_are_resolved_as_container_runtimes_do() {
        assert_eq!(ids(None), (1000, 1000));
        assert_eq!(ids(Some("root")), (0, 0));
        assert_eq!(ids(Some("app")), (1001, 1002));
        assert_eq!(ids(Some("1001")), (1001, 1002));
        assert_eq!(ids(Some("77")), (77, 0));
        assert_eq!(ids(Some("77:88")), (77, 88));
        assert_eq!(ids(Some("app:audio")), (1001, 29));
    }

    #[test]
    fn home_and_further_groups_come_from_the_image() {
        let user = lookup(Some("app"), PASSWD, GROUP).unwrap();
        assert_eq!(
            (user.groups, user.home.as_str()),
            (vec![29, 44], "/srv/app")
        );
        assert_eq!(lookup(Some("5"), PASSWD, GROUP).unwrap().home, "/");
    }

    #[test]
    fn an_unknown_name_is_refused_by_name() {
        let error = lookup(Some("nobody"), PASSWD, GROUP).unwrap_err();
        let refused = "there is no user \"nobody\" in the image's /etc/passwd";
        assert_eq!(error.to_string(), refused);
        assert!(lookup(Some("app:x"), PASSWD, GROUP).is_err());
        assert!(lookup(Some("70000"), PASSWD, GROUP).is_err());
    }

    #[test]
    fn a_link_in_the_image_does_not_lead_out_of_it() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let (file, link) = (
            outside.path().join("passwd"),
            root.path().join("etc/passwd"),
        );
        std::fs::write(&file, PASSWD).unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(resolve(root.path(), Some("app")).is_err());
        std::fs::create_dir_all(root.path().join("real")).unwrap();
        std::fs::write(root.path().join("real/passwd"), PASSWD).unwrap();
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/real/passwd", &link).unwrap();
        assert_eq!(resolve(root.path(), Some("app")).unwrap().uid, 1001);
    }
}
