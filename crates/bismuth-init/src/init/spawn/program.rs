//! Looks a program up as execvp(3) does, with the `PATH` of its own environment.

use std::{
    borrow::Cow,
    ffi::{CStr, CString},
};

use crate::protocol::ExecRequest;

/// What container runtimes set when an image sets no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The files to try, in order.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) candidates: Vec<CString>,
    /// The `PATH` that was searched, if it had to be.
    pub(super) searched: Option<String>,
}

impl Program {
    pub(super) fn of(request: &ExecRequest, env: &[&CStr]) -> Self {
        let Some(name) = request.argv.first().filter(|name| !name.is_empty()) else {
            return Self::at(CString::default());
        };
        if name.as_bytes().contains(&b'/') {
            return Self::at(name.clone());
        }
        let path = env
            .iter()
            .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="))
            .unwrap_or(DEFAULT_PATH);
        let candidates = path.split(|byte| *byte == b':').filter_map(|directory| {
            // An empty entry is the working directory, which the path without a slash is.
            let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
            // Parts of C strings have no zero byte.
            CString::new([directory, slash, name.as_bytes()].concat()).ok()
        });
        Self {
            candidates: candidates.collect(),
            searched: Some(String::from_utf8_lossy(path).into_owned()),
        }
    }

    fn at(path: CString) -> Self {
        Self {
            candidates: vec![path],
            searched: None,
        }
    }

    pub(super) fn name_of(&self, candidate: usize) -> Cow<'_, str> {
        self.candidates
            .get(candidate)
            .map_or(Cow::Borrowed(""), |path| path.to_string_lossy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(program: &str, env: &[&str]) -> Vec<String> {
        let env = env.iter().copied();
        let request = ExecRequest::new([program], env, "/", (0, 0)).expect("no zero bytes");
        let env: Vec<&CStr> = request.env.iter().map(CString::as_c_str).collect();
        let candidates = Program::of(&request, &env).candidates;
        let text = |path: CString| path.into_string().expect("UTF-8");
        candidates.into_iter().map(text).collect()
    }

    #[test]
    fn a_name_is_looked_for_in_the_path_of_the_environment() {
        assert_eq!(
            candidates("ls", &["HOME=/", "PATH=/a:/b/:"]),
            ["/a/ls", "/b//ls", "ls"]
        );
        assert_eq!(candidates("ls", &[])[0], "/usr/local/sbin/ls");
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        assert_eq!(candidates("./run", &["PATH=/a"]), ["./run"]);
        assert_eq!(candidates("/bin/ls", &["PATH=/a"]), ["/bin/ls"]);
        assert_eq!(candidates("", &["PATH=/a"]), [""]);
    }
}
