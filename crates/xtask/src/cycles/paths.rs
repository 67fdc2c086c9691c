//! Resolves which file of a crate imports which names of which other file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Edges;
use crate::tokens::{Token, tokens};

/// Names from the crate's root on; the root itself is empty.
type Module = Vec<String>;

/// So many times a name is handed on at most; more is a name that is handed on to itself.
const MOST_HOPS: usize = 8;

/// A source file of a crate.
pub(super) struct File {
    path: String,
    module: Module,
    source: String,
}

impl File {
    /// `None` for a program in `bin/`, which nothing can name. `src` is where the crate's sources are.
    pub(super) fn new(path: &Path, src: &Path, source: String) -> Option<Self> {
        let inside = path.strip_prefix(src).ok()?;
        let mut module: Module = inside
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        match inside.to_str()? {
            inside if inside.starts_with("bin/") => return None,
            "lib.rs" | "main.rs" => module.clear(),
            inside if inside.ends_with("/mod.rs") => module.truncate(module.len() - 1),
            _ => {}
        }
        let path = path.display().to_string();
        Some(File {
            path,
            module,
            source,
        })
    }
}

/// Every edge between two files of which neither is below the other.
pub(super) fn edges(files: &[File]) -> Edges {
    let mut names = Names::default();
    let mut found = Vec::new();
    for file in files {
        let mut scan = Scan {
            names: &mut names,
            found: &mut found,
            file,
        };
        scan.items(&tokens(&file.source));
    }
    let mut edges = Edges::new();
    for Named { by, module, path } in &found {
        let Some((to, name)) = names.resolve(module, path, MOST_HOPS) else {
            continue;
        };
        let is_test = |file: &File| {
            let is_in = |test: &Module| file.module.starts_with(test);
            names.tests.iter().any(is_in)
        };
        let is_apart = !by.module.starts_with(&to.module) && !to.module.starts_with(&by.module);
        if is_apart && !is_test(by) && !is_test(to) {
            let ties = edges.entry(by.path.clone()).or_default();
            ties.entry(to.path.clone()).or_default().insert(name);
        }
    }
    edges
}

/// A path somewhere in a file.
struct Named<'a> {
    by: &'a File,
    /// The module it stands in: the file's, or one inside the file.
    module: Module,
    path: Vec<String>,
}

/// The modules of a crate, and what each has imported.
#[derive(Default)]
struct Names<'a> {
    modules: BTreeMap<Module, &'a File>,
    imports: BTreeMap<(Module, String), Vec<String>>,
    /// Modules that are there in tests only.
    tests: BTreeSet<Module>,
}

impl<'a> Names<'a> {
    /// The file that defines what `path` means in `module`, and its name there. `None` if that is not in this crate.
    fn resolve(&self, module: &Module, path: &[String], hops: usize) -> Option<(&'a File, String)> {
        let hops = hops.checked_sub(1)?;
        let first = path.first()?;
        let mut rest = path;
        let mut at = match first.as_str() {
            "crate" => Module::new(),
            "self" | "super" => module.clone(),
            _ if self.modules.contains_key(&child(module, first)) => module.clone(),
            _ => {
                let import = self.imports.get(&(module.clone(), first.clone()))?;
                let whole = [import, &path[1..]].concat();
                return self.resolve(module, &whole, hops);
            }
        };
        while let Some((step, others)) = rest.split_first() {
            match step.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()?),
                _ if self.modules.contains_key(&child(&at, step)) => at.push(step.clone()),
                _ => break,
            }
            rest = others;
        }
        let name = rest.first().or(at.last())?.clone();
        if let Some(import) = self.imports.get(&(at.clone(), name.clone()))
            && !rest.is_empty()
        {
            let whole = [import, &rest[1..]].concat();
            // What another crate is asked for is no tie.
            return self.resolve(&at, &whole, hops);
        }
        Some((self.modules.get(&at)?, name))
    }
}

fn child(module: &Module, name: &str) -> Module {
    [module.as_slice(), &[name.to_owned()]].concat()
}

/// Reads one file.
struct Scan<'s, 'a> {
    names: &'s mut Names<'a>,
    found: &'s mut Vec<Named<'a>>,
    file: &'a File,
}

impl Scan<'_, '_> {
    fn items(&mut self, tokens: &[Token<'_>]) {
        let mut module = self.file.module.clone();
        self.names.modules.insert(module.clone(), self.file);
        // How deep in braces each module inside the file begins.
        let (mut depth, mut inside) = (0, Vec::new());
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let ahead = &tokens[at..];
            let text = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text);
            at += match [token.text, text(1), text(2)] {
                ["#", "[", "cfg"] if is_for_tests(ahead) => {
                    let length = item_length(ahead);
                    self.test_item(&module, &ahead[..length]);
                    length
                }
                ["mod", name, "{"] => {
                    module.push(name.to_owned());
                    self.names.modules.insert(module.clone(), self.file);
                    inside.push(depth);
                    2
                }
                ["use", ..] => 1 + self.declaration(&module, &ahead[1..]),
                ["{", ..] => {
                    depth += 1;
                    1
                }
                ["}", ..] => {
                    depth -= 1;
                    if inside.last() == Some(&depth) {
                        inside.pop();
                        module.pop();
                    }
                    1
                }
                [_, "::", ..] if token.is_identifier() => {
                    let path = path(ahead);
                    let length = 2 * path.len() - 1;
                    self.name(&module, path);
                    length
                }
                _ => 1,
            };
        }
    }

    fn name(&mut self, module: &Module, path: Vec<String>) {
        let (by, module) = (self.file, module.clone());
        self.found.push(Named { by, module, path });
    }

    /// Takes note of a module that is there in tests only.
    fn test_item(&mut self, module: &Module, item: &[Token<'_>]) {
        if let [.., keyword, name, end] = item
            && (keyword.text, end.text) == ("mod", ";")
        {
            self.names.tests.insert(child(module, name.text));
        }
    }

    /// `a::{b, c::D as E};` after `use`; how long it is.
    fn declaration(&mut self, module: &Module, ahead: &[Token<'_>]) -> usize {
        let mut groups: Vec<Vec<String>> = vec![Vec::new()];
        let mut path: Vec<String> = Vec::new();
        let mut alias: Option<String> = None;
        let mut length = 0;
        for token in ahead {
            length += 1;
            match token.text {
                "{" => groups.push(path.clone()),
                "," | "}" | ";" => {
                    if path.len() > groups.last().map_or(0, Vec::len) {
                        self.import(module, &path, alias.take());
                    }
                    if token.text == "}" {
                        groups.pop();
                    }
                    path = groups.last().cloned().unwrap_or_default();
                    if token.text == ";" {
                        break;
                    }
                }
                "as" => alias = Some(String::new()),
                "::" => {}
                name => match &mut alias {
                    Some(alias) => name.clone_into(alias),
                    None => path.push(name.to_owned()),
                },
            }
        }
        length
    }

    fn import(&mut self, module: &Module, path: &[String], alias: Option<String>) {
        let mut path = path.to_vec();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let Some(last) = path.last().cloned() else {
            return;
        };
        let known_as = alias.unwrap_or(last);
        let names = &mut self.names.imports;
        names.insert((module.clone(), known_as), path.clone());
        self.name(module, path);
    }
}

/// How long the item is that `ahead` begins with, its attributes included.
fn item_length(ahead: &[Token<'_>]) -> usize {
    let mut depth = 0;
    for (at, token) in ahead.iter().enumerate() {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            // The end of what the item is in.
            ")" | "]" | "}" if depth == 0 => return at,
            "}" if depth == 1 => return at + 1,
            ")" | "]" | "}" => depth -= 1,
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    ahead.len()
}

/// `cfg(test)` or `cfg(all(test, …))`.
fn is_for_tests(ahead: &[Token<'_>]) -> bool {
    let text = |at: usize| ahead.get(at).map_or("", |token| token.text);
    text(4) == "test" || (text(4), text(6)) == ("all", "test")
}

/// The path that `ahead` begins with.
fn path(ahead: &[Token<'_>]) -> Vec<String> {
    let mut path = vec![ahead[0].text.to_owned()];
    for pair in ahead[1..].chunks(2) {
        match pair {
            [colons, name] if colons.text == "::" && name.is_identifier() => {
                path.push(name.text.to_owned());
            }
            _ => break,
        }
    }
    path
}
