//! Import cycles: three or more files of a crate that need each other, so that none can be read or changed without the others.
//!
//! ```text
//!  files ─► modules of a crate ─► the paths each one names ─► edges file → file ─► strongly connected components
//! ```
//!
//! Read are `use` declarations and paths in code, outside of `#[cfg(test)]`. A name that a module only hands on (`pub use`)
//! counts as its own file's. A module and what is below it are one thing in two files: edges between them do not count.

mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;

use crate::command::report;
use crate::sources::rust_sources;

/// Cycles older than this check, by their files: the core of proxying, until it is rebuilt.
const EXCEPTED: &[&[&str]] = &[&[
    "crates/bismuth-http/src/body.rs",
    "crates/bismuth-http/src/client.rs",
    "crates/bismuth-http/src/forward.rs",
    "crates/bismuth-http/src/framing.rs",
    "crates/bismuth-http/src/guard.rs",
    "crates/bismuth-http/src/pool.rs",
    "crates/bismuth-http/src/problem.rs",
    "crates/bismuth-http/src/replay.rs",
    "crates/bismuth-http/src/server.rs",
    "crates/bismuth-http/src/tunnel.rs",
]];

/// Who names what of whom.
type Edges = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Reads every crate and reports every cycle that should not be.
pub(crate) fn check() -> Result<()> {
    let mut crates: BTreeMap<PathBuf, Vec<paths::File>> = BTreeMap::new();
    for (path, source) in rust_sources()? {
        let Some(src) = path.ancestors().find(|above| above.ends_with("src")) else {
            continue;
        };
        let files = crates.entry(src.to_owned()).or_default();
        files.extend(paths::File::new(&path, src, source));
    }
    let cycles: Vec<String> = crates
        .values()
        .flat_map(|files| violations(files, EXCEPTED))
        .collect();
    report(&cycles)
}

/// The cycles of one crate that are not excepted, each with what ties it.
fn violations(files: &[paths::File], excepted: &[&[&str]]) -> Vec<String> {
    let edges = paths::edges(files);
    let is_excepted = |cycle: &BTreeSet<&str>| {
        let within = |names: &&[&str]| cycle.iter().all(|file| names.contains(file));
        excepted.iter().any(within)
    };
    cycles(&edges)
        .into_iter()
        .filter(|cycle| !is_excepted(cycle))
        .map(|cycle| describe(&cycle, &edges))
        .collect()
}

/// Strongly connected components of more than two files.
fn cycles(edges: &Edges) -> Vec<BTreeSet<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = edges
        .keys()
        .map(|file| (file.as_str(), reach(file, edges)))
        .collect();
    let mut found: Vec<BTreeSet<&str>> = Vec::new();
    for (file, reaches) in &reached {
        let returns = |other: &&str| reached.get(other).is_some_and(|back| back.contains(file));
        let cycle: BTreeSet<&str> = reaches.iter().copied().filter(returns).collect();
        if cycle.len() > 2 && !found.contains(&cycle) {
            found.push(cycle);
        }
    }
    found
}

/// All files that `from` leads to, itself only by way of others.
fn reach<'a>(from: &str, edges: &'a Edges) -> BTreeSet<&'a str> {
    let (mut seen, mut ahead) = (BTreeSet::new(), vec![from]);
    while let Some(file) = ahead.pop() {
        for next in edges.get(file).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(next.as_str()) {
                ahead.push(next);
            }
        }
    }
    seen
}

fn describe(cycle: &BTreeSet<&str>, edges: &Edges) -> String {
    let mut text = format!("a cycle of {} files:", cycle.len());
    for from in cycle {
        let inside = edges[*from]
            .iter()
            .filter(|(to, _)| cycle.contains(to.as_str()));
        for (to, names) in inside {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            text.push_str(&format!("\n  {from} -> {to}: {}", names.join(", ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What is found in a crate of these files.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<paths::File> = files
            .iter()
            .filter_map(|(path, source)| {
                paths::File::new(Path::new(path), Path::new("src"), (*source).to_owned())
            })
            .collect();
        violations(&files, &[&["src/x.rs", "src/y.rs", "src/z.rs"]])
    }

    #[test]
    fn three_files_in_a_cycle_are_found_with_the_names_they_import() {
        let cycles = found(&[
            ("src/lib.rs", "mod a; mod b; pub mod c;"),
            ("src/a.rs", "use crate::b::{B, other::{self as o, O}};"),
            ("src/b/mod.rs", "mod other; fn f() { crate::c::g() }"),
            ("src/b/other.rs", "pub struct O;"),
            ("src/c.rs", "pub(crate) use super::a::A;"),
        ]);
        assert_eq!(
            cycles,
            [
                "a cycle of 3 files:\n  src/a.rs -> src/b/mod.rs: B\n  src/b/mod.rs -> src/c.rs: g\n  \
                 src/c.rs -> src/a.rs: A"
            ]
        );
    }

    #[test]
    fn two_files_may_need_each_other() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "use crate::a::A;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn a_module_and_its_submodules_count_as_one() {
        let files = [
            ("src/lib.rs", "mod a;"),
            ("src/a.rs", "mod b; mod c; use b::B; use self::c::C;"),
            ("src/a/b.rs", "use super::A; use super::c::C;"),
            ("src/a/c.rs", "use crate::a::A;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn a_reexported_name_belongs_to_the_file_that_defines_it() {
        let cycles = found(&[
            ("src/lib.rs", "mod a; mod b; mod c; pub use a::A; use c::C;"),
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "use crate::C;"),
            ("src/c.rs", "use crate::A;"),
        ]);
        assert_eq!(cycles.len(), 1);
        assert!(
            cycles[0].contains("src/c.rs -> src/a.rs: A"),
            "{}",
            cycles[0]
        );
    }

    #[test]
    fn imports_that_only_tests_use_make_no_cycle() {
        let files = [
            ("src/lib.rs", "mod a; mod b; mod c; #[cfg(test)] mod d;"),
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "use crate::c::C; #[cfg(test)] use crate::a::A;"),
            (
                "src/c.rs",
                "pub struct C; #[cfg(test)] #[allow(dead_code)] mod tests { use crate::a::A; fn f() { crate::b::g() } }",
            ),
            ("src/d.rs", "use crate::a::A;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn an_excepted_cycle_may_not_take_in_another_file() {
        let mut files = vec![
            ("src/lib.rs", "mod x; mod y; mod z; mod new;"),
            ("src/x.rs", "use crate::y::Y;"),
            ("src/y.rs", "use crate::z::Z;"),
            ("src/z.rs", "use crate::x::X; use crate::new::N;"),
        ];
        assert_eq!(found(&files), [""; 0]);
        files.push(("src/new.rs", "use crate::x::X;"));
        assert_eq!(found(&files).len(), 1);
    }
}
