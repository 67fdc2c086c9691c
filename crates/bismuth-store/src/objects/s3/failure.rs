//! Errors of S3 requests, their timeout, and how they become errors of the engine.

use std::time::Duration;

use bismuth_base::chain;
use object_store::Error;

use super::ENGINE;
use crate::records::EngineError;

/// Servers answer errors with pages of XML; this much says what it is.
const LONGEST_REASON: usize = 500;

/// Why a request was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no answer in so much time.
    Timeout(Duration),
    /// The answer, or why there was none.
    Store(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// Does something within a bound.
pub(super) async fn with_timeout<T>(
    bound: Duration,
    act: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(bound, act).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Failure::Timeout(bound)),
    }
}

/// `None` if what was asked for is not there. A bucket that is not there is an error: nothing can be said of what should be in it.
pub(super) fn none_if_missing<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Store(error @ Error::NotFound { .. }))
            if !error.to_string().contains("NoSuchBucket") =>
        {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        let error = match failure {
            Failure::Timeout(bound) => return unavailable(format!("no answer within {bound:?}")),
            Failure::Store(error) => error,
        };
        let reason = shortened(chain(&error));
        match error {
            // A server that is away, overloaded or full, for which S3 has no code of its own; a bucket, a right or an upload that is not there: all are mended without us.
            Error::Generic { .. }
            | Error::NotFound { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. } => unavailable(reason),
            _ => EngineError::broken(ENGINE, reason),
        }
    }
}

pub(super) fn unavailable(reason: String) -> EngineError {
    EngineError::unavailable(ENGINE, reason)
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST_REASON {
        text.truncate(text.floor_char_boundary(LONGEST_REASON));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(source: &str) -> Failure {
        Failure::Store(Error::NotFound {
            path: "id".into(),
            source: source.into(),
        })
    }

    #[test]
    fn what_is_missing_is_none_unless_its_bucket_is() {
        assert!(matches!(
            none_if_missing::<()>(Err(missing("NoSuchKey"))),
            Ok(None)
        ));
        let error = none_if_missing::<()>(Err(missing("<Code>NoSuchBucket</Code>"))).unwrap_err();
        assert!(matches!(
            EngineError::from(error),
            EngineError::Unavailable { .. }
        ));
    }

    #[test]
    fn a_long_page_is_cut() {
        let page = Failure::Store(Error::Generic {
            store: "S3",
            source: "ü".repeat(1000).into(),
        });
        let long = EngineError::from(page).to_string();
        assert!(long.ends_with('…') && long.len() < 600, "{long}");
    }
}
