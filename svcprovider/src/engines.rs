//! Opens the storage engines that the flags name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bismuth_store::objects::Objects;
use bismuth_store::objects::files::Files;
use bismuth_store::objects::s3::{S3, S3Error};
use bismuth_store::records::Records;
use bismuth_store::records::embedded::{Embedded, OpenError};
use bismuth_store::records::postgres::{ConfigError, Postgres};
use thiserror::Error;

use crate::config::{Args, ObjectsUrl, RecordsUrl};
use crate::file_error::{FileError, failed};

/// Why an engine does not open.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum EnginesError {
    #[error(transparent)]
    File(#[from] FileError),
    /// What it holds; not shown, as it may hold a password.
    #[error("{} does not hold a URL of records: {reason}", path.display())]
    Url { path: PathBuf, reason: String },
    #[error(transparent)]
    Embedded(#[from] OpenError),
    #[error(transparent)]
    Postgres(#[from] ConfigError),
    #[error(transparent)]
    S3(#[from] S3Error),
}

/// Where keys and secrets are, by the flags or by the file that they name.
///
/// # Errors
/// When that file cannot be read or holds no URL.
pub fn records_url(args: &Args) -> Result<RecordsUrl, EnginesError> {
    let Some(path) = &args.records_file else {
        return Ok(args.records.clone());
    };
    let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
    text.trim().parse().map_err(|reason| {
        let path = path.clone();
        EnginesError::Url { path, reason }
    })
}

/// Where records are, and where the bytes of blobs.
pub type Engines = (Arc<dyn Records>, Arc<dyn Objects>);

/// Opens both.
///
/// # Errors
/// As [`EnginesError`] says.
pub fn open(
    data_dir: &Path,
    records: &RecordsUrl,
    objects: &ObjectsUrl,
) -> Result<Engines, EnginesError> {
    let records: Arc<dyn Records> = match records {
        RecordsUrl::Embedded => Arc::new(Embedded::open(&data_dir.join("records"))?),
        RecordsUrl::Postgres(url) => Arc::new(Postgres::open(url)?),
    };
    let objects: Arc<dyn Objects> = match objects {
        ObjectsUrl::Files => {
            let path = data_dir.join("objects");
            Arc::new(Files::open(&path).map_err(failed("open the directory of blobs", &path))?)
        }
        ObjectsUrl::S3(url) => Arc::new(S3::open(url)?),
    };
    Ok((records, objects))
}
