//! Validates paths by ZooKeeper's rules before anything is sent.

use crate::error::{Error, Result};

/// The root of the tree.
pub const ROOT: &str = "/";

/// Checks that `path` is absolute, has no empty, `.` or `..` segment, does not end in a slash (but for the
/// root itself) and has no character that ZooKeeper refuses (its `PathUtils.validatePath`).
///
/// # Errors
/// [`Error::InvalidPath`] with what is wrong.
pub fn validate(path: &str) -> Result<()> {
    match fault(path) {
        None => Ok(()),
        Some(reason) => Err(Error::InvalidPath {
            path: path.to_owned(),
            reason,
        }),
    }
}

fn fault(path: &str) -> Option<&'static str> {
    let Some(rest) = path.strip_prefix('/') else {
        return Some("it must start with a slash");
    };
    if rest.is_empty() {
        return None;
    }
    if path.chars().any(is_refused) {
        return Some("it has a control or private-use character");
    }
    rest.split('/').find_map(|segment| match segment {
        "" => Some("it has an empty segment"),
        "." | ".." => Some("it has a relative segment"),
        _ => None,
    })
}

// ZooKeeper is stricter than Unicode because its paths travel through Java's UTF-16. (Its range of refused
// characters begins with the surrogates, which a `char` cannot be.)
fn is_refused(c: char) -> bool {
    matches!(c, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}')
}

/// The parent of a valid path; `None` for the root.
#[must_use]
pub fn parent(path: &str) -> Option<&str> {
    if path == ROOT {
        return None;
    }
    match path.rfind('/')? {
        0 => Some(ROOT),
        at => Some(&path[..at]),
    }
}

/// The ancestors of a valid path from the top down, without the root and without the path itself:
/// of `/a/b/c` these are `/a` and `/a/b`.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').skip(1).map(|(at, _)| &path[..at])
}

/// The path of the child `name` of `parent`.
#[must_use]
pub fn join(parent: &str, name: &str) -> String {
    if parent == ROOT {
        format!("/{name}")
    } else {
        format!("{parent}/{name}")
    }
}

/// Whether `path` is `top` or lies below it.
#[must_use]
pub fn is_within(top: &str, path: &str) -> bool {
    top == ROOT
        || path
            .strip_prefix(top)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_paths_are_accepted() {
        for path in [
            "/",
            "/a",
            "/a/b.c",
            "/node/127.0.0.1/container/x",
            "/...",
            "/ü",
        ] {
            assert!(validate(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn invalid_paths_are_refused_by_name() {
        for path in [
            "",
            "a",
            "a/b",
            "/a/",
            "//",
            "/a//b",
            "/./a",
            "/a/..",
            "/a\0",
            "/a\u{1f}",
            "/\u{f8ff}",
        ] {
            let error = validate(path).unwrap_err();
            assert!(
                matches!(&error, Error::InvalidPath { path: named, .. } if named == path),
                "{path:?}: {error}"
            );
        }
    }

    #[test]
    fn parents_and_ancestors_run_from_the_top() {
        assert_eq!(parent("/"), None);
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(ancestors("/a/b/c").collect::<Vec<_>>(), ["/a", "/a/b"]);
        assert_eq!(ancestors("/a").count(), 0);
        assert_eq!(ancestors("/").count(), 0);
    }

    #[test]
    fn a_sibling_with_the_same_beginning_is_not_within() {
        assert!(is_within("/a", "/a"));
        assert!(is_within("/a", "/a/b"));
        assert!(is_within("/", "/a"));
        assert!(!is_within("/a", "/ab"));
        assert!(!is_within("/a/b", "/a"));
    }

    #[test]
    fn a_child_of_the_root_has_one_slash() {
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("/a", "b"), "/a/b");
    }
}
