//! Commits several changes as one ZooKeeper multi request.

use tokio::time::Instant;

use super::client::ZkClient;
use super::request::{RequestError, answer, classify, options_of};
use super::zk;
use crate::error::{Error, Result};
use crate::tree::{Op, Version};

impl ZkClient {
    pub(super) async fn commit(&self, ops: &[Op]) -> Result<()> {
        let (act, path) = match ops {
            [] => return Ok(()),
            [op] => (op.act(), op.path()),
            [op, ..] => ("commit", op.path()),
        };
        let client = self.connected(act, path).await?;
        let mut writer = client.new_multi_writer();
        for op in ops {
            add(&mut writer, op).map_err(|error| {
                classify(op.act(), op.path(), error).into_change_error(op.act(), op.path())
            })?;
        }
        let deadline = Instant::now() + self.options.timeout;
        match answer(&client, deadline, writer.commit()).await {
            Ok(_) => Ok(()),
            Err(RequestError::Failed(zk::MultiWriteError::OperationFailed { index, source })) => {
                let (act, path) = ops
                    .get(index)
                    .map_or((act, path), |op| (op.act(), op.path()));
                Err(classify(act, path, source).into_change_error(act, path))
            }
            Err(RequestError::Failed(zk::MultiWriteError::RequestFailed { source })) => {
                Err(classify(act, path, source).into_change_error(act, path))
            }
            Err(RequestError::Lost(source)) => Err(Error::UnknownOutcome {
                act,
                path: path.to_owned(),
                source,
            }),
        }
    }
}

fn add(writer: &mut zk::MultiWriter<'_>, op: &Op) -> Result<(), zk::Error> {
    let number = |expected: &Option<Version>| expected.map(|Version(version)| version);
    match op {
        Op::Create { path, data, mode } => writer.add_create(path, data, &options_of(*mode)),
        Op::Set {
            path,
            data,
            expected,
        } => writer.add_set_data(path, data, number(expected)),
        Op::Delete { path, expected } => writer.add_delete(path, number(expected)),
        Op::Check { path, expected } => writer.add_check_version(path, expected.0),
    }
}
