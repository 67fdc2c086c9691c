//! Errors of the server, which of them can be retried, and how they become errors of the engine.

use bismuth_base::chain;
use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::SqlState;

use super::ENGINE;
use crate::records::{EngineError, Refused};

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// A write of the batch was refused.
    Refused { index: usize, refused: Refused },
    /// The server, or the way to it.
    Sql(tokio_postgres::Error),
    /// The same, after the commit was sent: it may have been made.
    Unknown(tokio_postgres::Error),
    /// There was no connection.
    Pool(String),
    /// More was asked for than can be taken.
    TooLarge { limit: u64 },
    /// What is stored is not what was written.
    Unreadable(String),
    /// Something was missing that is there now.
    Again,
}

impl Failure {
    pub(super) fn closed() -> Self {
        Self::Pool("the connection was given back".into())
    }

    /// Whether it may succeed at once: the server gave it up for somebody else, or the connection had died and nothing was committed on it.
    pub(super) fn is_worth_another_attempt(&self) -> bool {
        match self {
            Self::Again => true,
            Self::Sql(error) => match error.code() {
                Some(code) => can_be_repeated(code),
                None => error.is_closed(),
            },
            // The server has said that nothing was made of it.
            Self::Unknown(error) => error.code().is_some_and(can_be_repeated),
            Self::Refused { .. } | Self::Pool(_) | Self::TooLarge { .. } | Self::Unreadable(_) => {
                false
            }
        }
    }

    pub(super) fn into_engine_error(self) -> EngineError {
        match self {
            Self::Refused { index, refused } => EngineError::Refused { index, refused },
            Self::Sql(error) | Self::Unknown(error) => sql_error(&error),
            Self::Pool(reason) => unavailable(reason),
            Self::TooLarge { limit } => EngineError::TooLarge { limit },
            Self::Unreadable(reason) => EngineError::broken(ENGINE, reason),
            Self::Again => unavailable("others were quicker again and again".into()),
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) if error.code().is_some() => Self::Sql(error),
            PoolError::Backend(error) => Self::Pool(chain(&error)),
            PoolError::Timeout(TimeoutType::Wait) => {
                Self::Pool("all connections are in use".into())
            }
            error => Self::Pool(error.to_string()),
        }
    }
}

pub(super) fn unavailable(reason: String) -> EngineError {
    EngineError::unavailable(ENGINE, reason)
}

/// A transaction that lost against another, and can be repeated.
fn can_be_repeated(code: &SqlState) -> bool {
    *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
}

fn sql_error(error: &tokio_postgres::Error) -> EngineError {
    let Some(code) = error.code() else {
        return unavailable(chain(error));
    };
    // Classes of PostgreSQL's appendix A: 08 connection, 53 resources, 57 operator (shutdown, starting up, time-out), 40 rollback;
    // 28 is a wrong password, and 3D a database that is not there yet: both are mended without us.
    let away = ["08", "53", "57", "40", "28", "3D"];
    if *code == SqlState::DISK_FULL {
        return EngineError::Full { engine: ENGINE };
    }
    // A server that became a standby, or waits for a lock longer than we do.
    let away = away.iter().any(|class| code.code().starts_with(class))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::LOCK_NOT_AVAILABLE;
    if away {
        return unavailable(chain(error));
    }
    EngineError::broken(ENGINE, chain(error))
}
