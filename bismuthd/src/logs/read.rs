//! Reads a container's log: the last lines, those since a time, and those to come.
//!
//! ```text
//!  oldest file ─► … ─► 0.log ─► (at its end, following: wait) ─► renamed? read on in the next newer
//! ```
//!
//! A [`Reader`] holds one file open. Files are told apart by their inode, so that it reads on
//! without loss or repetition while the writer rotates under it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::cri::decode;
use super::rotate::file_path;

/// Bytes read at once; also the step in which the end is searched for the last lines.
const BLOCK: usize = 64 * 1024;

/// More files than any [`super::rotate::Limits`] keeps.
const MAX_FILES: usize = 100;

/// Which records are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    /// At most this many records, the newest ones; `None` is all.
    pub tail: Option<usize>,
    /// Only records of this time or later.
    pub since: Option<SystemTime>,
}

/// Reads one container's log from a position towards its growing end.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    file: Option<File>,
    since: Option<SystemTime>,
    unfinished: Vec<u8>,
}

impl Reader {
    /// Starts at the first wanted record of the log in `dir`. A log that does not exist is empty.
    pub fn open(dir: &Path, selection: Selection) -> io::Result<Self> {
        let mut reader = Self {
            dir: dir.to_owned(),
            file: None,
            since: selection.since,
            unfinished: Vec::new(),
        };
        reader.file = match selection.tail {
            None => oldest(dir)?,
            Some(lines) => tail_start(dir, lines)?,
        };
        Ok(reader)
    }

    /// The next whole records, or `None` at the present end of the log.
    pub fn next_records(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if self.file.is_none() {
                self.file = oldest(&self.dir)?;
            }
            let Some(file) = &mut self.file else {
                return Ok(None);
            };
            let mut block = vec![0; BLOCK];
            let count = file.read(&mut block)?;
            if count > 0 {
                let records = self.whole_records(&block[..count]);
                if !records.is_empty() {
                    return Ok(Some(records));
                }
            } else if !self.step_to_newer()? {
                return Ok(None);
            }
        }
    }

    /// At the end of a file: whether a newer one was there to go on with.
    fn step_to_newer(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else {
            return Ok(false);
        };
        let inode = file.metadata()?.ino();
        match index_of(&self.dir, inode)? {
            Some(0) => return Ok(false),
            Some(index) => {
                // What was written between our last read and the renaming is still to be read.
                if file.stream_position()? < file.metadata()?.len() {
                    return Ok(true);
                }
                self.file = open(&file_path(&self.dir, index - 1))?;
            }
            // Rotated away entirely while we were slow: go on with the oldest that is left.
            None => self.file = oldest(&self.dir)?,
        }
        Ok(self.file.is_some())
    }

    fn whole_records(&mut self, block: &[u8]) -> Vec<u8> {
        let Some(end) = block.iter().rposition(|b| *b == b'\n') else {
            self.unfinished.extend_from_slice(block);
            return Vec::new();
        };
        let mut records = std::mem::take(&mut self.unfinished);
        records.extend_from_slice(&block[..=end]);
        self.unfinished.extend_from_slice(&block[end + 1..]);
        let Some(since) = self.since else {
            return records;
        };
        let start = records
            .split_inclusive(|b| *b == b'\n')
            .take_while(|line| is_before(line, since))
            .map(<[u8]>::len)
            .sum();
        if start < records.len() {
            // Records are in the order of time: from here on all are wanted.
            self.since = None;
        }
        records.split_off(start)
    }
}

fn is_before(line: &[u8], since: SystemTime) -> bool {
    decode(line.strip_suffix(b"\n").unwrap_or(line)).is_none_or(|record| record.time < since)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn count_files(dir: &Path) -> usize {
    (0..MAX_FILES)
        .take_while(|i| file_path(dir, *i).exists())
        .count()
}

fn oldest(dir: &Path) -> io::Result<Option<File>> {
    match count_files(dir) {
        0 => Ok(None),
        count => open(&file_path(dir, count - 1)),
    }
}

fn index_of(dir: &Path, inode: u64) -> io::Result<Option<usize>> {
    for index in 0..MAX_FILES {
        match std::fs::metadata(file_path(dir, index)) {
            Ok(metadata) if metadata.ino() == inode => return Ok(Some(index)),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// The file and position from which there are `wanted` records to the end of the log.
fn tail_start(dir: &Path, mut wanted: usize) -> io::Result<Option<File>> {
    for index in 0..count_files(dir) {
        let Some(mut file) = open(&file_path(dir, index))? else {
            continue;
        };
        let (position, found) = last_records(&mut file, wanted)?;
        if found >= wanted {
            file.seek(SeekFrom::Start(position))?;
            return Ok(Some(file));
        }
        wanted -= found;
    }
    oldest(dir)
}

/// The position of the `wanted`th record from the end, and how many there are from it on.
fn last_records(file: &mut File, wanted: usize) -> io::Result<(u64, usize)> {
    let end = file.seek(SeekFrom::End(0))?;
    if wanted == 0 {
        return Ok((end, 0));
    }
    let mut found = 0;
    let mut block_end = end;
    let mut block = vec![0; BLOCK];
    while block_end > 0 {
        let block_start = block_end.saturating_sub(BLOCK as u64);
        let bytes = &mut block[..usize::try_from(block_end - block_start).unwrap_or(BLOCK)];
        file.seek(SeekFrom::Start(block_start))?;
        file.read_exact(bytes)?;
        for (offset, _) in bytes.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let after = block_start + offset as u64 + 1;
            // The line feed at the very end finishes the last record; each other one starts a record.
            if after == end {
                continue;
            }
            found += 1;
            if found == wanted {
                return Ok((after, found));
            }
        }
        block_end = block_start;
    }
    Ok((0, found + usize::from(end > 0)))
}

#[cfg(test)]
mod tests {
    use super::super::cri::{Stream, encode};
    use super::super::rotate::{Limits, RotatingLog};
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    struct TestLog {
        dir: tempfile::TempDir,
        log: RotatingLog,
        next: u64,
    }

    impl TestLog {
        fn new(file_bytes: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let limits = Limits {
                file_bytes,
                files: 3,
            };
            let log = RotatingLog::open(dir.path(), limits).unwrap();
            Self { dir, log, next: 0 }
        }

        fn lines(&mut self, count: u64) {
            for _ in 0..count {
                let mut record = Vec::new();
                let time = UNIX_EPOCH + Duration::from_secs(self.next);
                let text = self.next.to_string().into_bytes();
                encode(&mut record, time, Stream::Stdout, true, &text);
                self.log.append(&record).unwrap();
                self.next += 1;
            }
        }

        fn reader(&self, selection: Selection) -> Reader {
            Reader::open(self.dir.path(), selection).unwrap()
        }
    }

    fn numbers(reader: &mut Reader) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(records) = reader.next_records().unwrap() {
            for line in records.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let content = decode(line).unwrap().content;
                numbers.push(std::str::from_utf8(content).unwrap().parse().unwrap());
            }
        }
        numbers
    }

    #[test]
    fn the_tail_spans_rotated_files() {
        let mut log = TestLog::new(400);
        log.lines(20);
        for tail in [0, 1, 3, 9, 10, 17] {
            let mut reader = log.reader(Selection {
                tail: Some(tail),
                since: None,
            });
            let read = numbers(&mut reader);
            assert_eq!(read, (20 - tail as u64..20).collect::<Vec<_>>());
        }
    }

    #[test]
    fn since_skips_what_is_older() {
        let mut log = TestLog::new(100_000);
        log.lines(20);
        let since = Some(UNIX_EPOCH + Duration::from_secs(15));
        let mut reader = log.reader(Selection { tail: None, since });
        assert_eq!(numbers(&mut reader), [15, 16, 17, 18, 19]);
    }

    #[test]
    fn a_follower_misses_nothing_while_the_log_rotates() {
        let mut log = TestLog::new(400);
        let mut reader = log.reader(Selection::default());
        let mut read = numbers(&mut reader);
        for _ in 0..40 {
            log.lines(7);
            read.extend(numbers(&mut reader));
        }
        assert_eq!(read, (0..280).collect::<Vec<_>>());
    }

    #[test]
    fn a_log_that_does_not_exist_yet_is_empty_and_can_be_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later");
        let selection = Selection {
            tail: Some(5),
            since: None,
        };
        let mut reader = Reader::open(&path, selection).unwrap();
        assert!(reader.next_records().unwrap().is_none());
        let mut log = RotatingLog::open(&path, Limits::default()).unwrap();
        log.append(b"1970-01-01T00:00:00.000000000Z stdout F x\n")
            .unwrap();
        assert!(reader.next_records().unwrap().is_some());
    }
}
