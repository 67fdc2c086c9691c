//! The database file: opened, locked, and opened again after an I/O error.
//!
//! ```text
//!   open ─► lock, pid ─► redb ─► serving ──── an I/O error: redb answers nothing any more ───► closed ─► opened again ─► serving
//! ```
//!
//! redb refuses everything after an I/O error, because what it holds in memory may not be what is on disk; opening it again goes back to
//! the last commit. A full disk is such an error, and must not be the end of the process.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bismuth_base::LogThrottle;
use bismuth_base::file;
use redb::{Builder, Database, ReadTransaction, ReadableDatabase as _, WriteTransaction};
use thiserror::Error;

use super::tables;
use crate::records::{EngineError, is_full};

/// What errors call this engine.
pub(super) const ENGINE: &str = "the embedded store";
/// redb's own cache; its default is a gibibyte. The kernel caches the file as well, so this only saves system calls.
const CACHE_BYTES: usize = 4 << 20;

/// Why an embedded store was not opened.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OpenError {
    #[error("create the directory {path}")]
    CreateDir { path: PathBuf, source: io::Error },
    #[error("lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("{path} is in use by the process {pid}")]
    InUse {
        path: PathBuf,
        /// Who, as far as it has said.
        pid: String,
    },
    #[error("open {path}")]
    Open {
        path: PathBuf,
        source: Box<redb::Error>,
    },
}

/// A file, and the right to it.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    opened: RwLock<OpenDatabase>,
    /// Held for as long as this lives.
    _lock: File,
}

#[derive(Debug)]
struct OpenDatabase {
    /// `None` when it could not be opened again.
    database: Option<Database>,
    /// Grows each time it is opened again.
    generation: u64,
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        file::create_dir_all_durably(dir).map_err(|source| OpenError::CreateDir {
            path: dir.to_owned(),
            source,
        })?;
        let lock = lock(dir)?;
        let path = dir.join("records.redb");
        let opened = open_or_create(&path).and_then(|database| {
            file::sync_dir(dir)?;
            Ok(database)
        });
        let database = opened.map_err(|source| OpenError::Open {
            path: path.clone(),
            source: Box::new(source),
        })?;
        let opened = OpenDatabase {
            database: Some(database),
            generation: 0,
        };
        Ok(Self {
            path,
            opened: RwLock::new(opened),
            _lock: lock,
        })
    }

    /// Reads one state of the store. Waits for the disk.
    pub(super) fn read<T>(
        &self,
        read: impl Fn(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, EngineError> {
        for _ in 0..2 {
            let opened = self.opened();
            let answer = match &opened.database {
                Some(database) => begin_read(database).and_then(|state| read(&state)),
                None => Err(redb::Error::PreviousIo),
            };
            match answer {
                Err(error) if is_io(&error) => self.open_again(opened)?,
                answer => return answer.map_err(engine_error),
            }
        }
        Err(engine_error(redb::Error::PreviousIo))
    }

    /// Makes one transaction: `change` returns what to answer, and whether it changed anything that is to be made durable.
    pub(super) fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(T, bool), redb::Error>,
    ) -> Result<T, EngineError> {
        let mut opened = self.opened();
        if opened.database.is_none() {
            self.open_again(opened)?;
            opened = self.opened();
        }
        let Some(database) = &opened.database else {
            return Err(engine_error(redb::Error::PreviousIo));
        };
        match transact(database, change) {
            Ok(answer) => Ok(answer),
            Err(FailedTransaction { error, made }) => {
                if is_io(&error) {
                    self.open_again(opened)?;
                    // Its last words may have been lost after it was made.
                    if let Some((number, answer)) = made
                        && self.last_commit()? >= number
                    {
                        return Ok(answer);
                    }
                }
                Err(engine_error(error))
            }
        }
    }

    /// Keeps everybody from the file.
    #[cfg(test)]
    pub(super) fn hang(&self) -> impl Sized + '_ {
        self.opened.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_commit(&self) -> Result<u64, EngineError> {
        self.read(|state| number(&state.open_table(tables::COMMIT)?))
    }

    fn opened(&self) -> RwLockReadGuard<'_, OpenDatabase> {
        // A panic while it was held left either a database or none, and both are handled.
        self.opened.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the file and opens it, unless somebody else has since `seen` was taken.
    fn open_again(&self, seen: RwLockReadGuard<'_, OpenDatabase>) -> Result<(), EngineError> {
        let generation = seen.generation;
        drop(seen);
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.generation != generation {
            return Ok(());
        }
        // Closed before it is opened: it has a lock.
        opened.database = None;
        match open(&self.path) {
            Ok(database) => {
                opened.database = Some(database);
                opened.generation += 1;
                static AGAIN: LogThrottle = LogThrottle::new();
                if let Some(left_out) = AGAIN.admit() {
                    tracing::warn!(path = %self.path.display(), left_out, "the embedded store had an I/O error and was opened again");
                }
                Ok(())
            }
            Err(error) => Err(engine_error(error)),
        }
    }
}

/// Takes the lock of a directory and leaves our pid in it.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let act = |source| OpenError::Lock {
        path: path.clone(),
        source,
    };
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.mode(0o600).open(&path).map_err(act)?;
    restrict(&path).map_err(act)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(act)?;
            let path = dir.to_owned();
            let pid = pid.trim().to_owned();
            return Err(OpenError::InUse { path, pid });
        }
        Err(fs::TryLockError::Error(source)) => return Err(act(source)),
    }
    file.set_len(0).map_err(act)?;
    writeln!(file, "{}", std::process::id()).map_err(act)?;
    Ok(file)
}

/// A file that others may open is one whose lock they may hold, and an earlier version may have made it.
fn restrict(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o600))
}

fn open_or_create(path: &Path) -> Result<Database, redb::Error> {
    if path.try_exists()? {
        open(path)
    } else {
        create(path)
    }
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    // redb locks it.
    restrict(path)?;
    Ok(builder().open(path)?)
}

/// Makes a file under another name and gives it its own when all is in it: redb refuses to open one whose making was broken off.
fn create(path: &Path) -> Result<Database, redb::Error> {
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    let database = builder().create(&unfinished)?;
    restrict(&unfinished)?;
    create_tables(&database)?;
    fs::rename(&unfinished, path)?;
    Ok(database)
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// So that no reader meets a table that is not there.
fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = begin_write(database)?;
    transaction.open_table(tables::RECORD)?;
    transaction.open_table(tables::VALUE)?;
    transaction.open_table(tables::COUNTER)?;
    transaction.open_table(tables::EXPIRY)?;
    transaction.open_table(tables::COMMIT)?.insert((), 0)?;
    transaction.commit()?;
    Ok(())
}

fn begin_read(database: &Database) -> Result<ReadTransaction, redb::Error> {
    Ok(database.begin_read()?)
}

/// Quick repair: a store that was killed opens in milliseconds, however large it is, and a commit does not rest on a checksum that a
/// function could forge (redb, `set_two_phase_commit`).
fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// A transaction that failed, and if it failed in its commit, which one and what its answer would have been.
struct FailedTransaction<T> {
    error: redb::Error,
    made: Option<(u64, T)>,
}

impl<T, E: Into<redb::Error>> From<E> for FailedTransaction<T> {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            made: None,
        }
    }
}

fn transact<T>(
    database: &Database,
    change: impl FnOnce(&WriteTransaction) -> Result<(T, bool), redb::Error>,
) -> Result<T, FailedTransaction<T>> {
    let transaction = begin_write(database)?;
    let (answer, changed) = change(&transaction)?;
    if !changed {
        transaction.abort()?;
        return Ok(answer);
    }
    let number = count_commit(&transaction)?;
    match transaction.commit() {
        Ok(()) => Ok(answer),
        Err(error) => Err(FailedTransaction {
            error: error.into(),
            made: Some((number, answer)),
        }),
    }
}

fn count_commit(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let mut table = transaction.open_table(tables::COMMIT)?;
    let number = number(&table)? + 1;
    table.insert((), number)?;
    Ok(number)
}

fn number(commits: &impl redb::ReadableTable<(), u64>) -> Result<u64, redb::Error> {
    Ok(commits.get(())?.map_or(0, |number| number.value()))
}

/// Whether redb has to be opened again.
fn is_io(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo)
}

pub(super) fn engine_error(error: redb::Error) -> EngineError {
    match &error {
        redb::Error::Io(io) if is_full(io) => EngineError::Full { engine: ENGINE },
        _ if is_io(&error) => EngineError::unavailable(ENGINE, error.to_string()),
        _ => EngineError::broken(ENGINE, error.to_string()),
    }
}
