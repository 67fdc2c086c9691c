//! Reads responses of svcprovider.

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::OperatorClient;
use crate::error::CallError;
use crate::timeout::ResponseBody;

/// A page of a thousand keys of 512 bytes each, percent-encoded or escaped, is far below.
const MAX_ANSWER: usize = 16 << 20;

/// What a purge deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Keys.
    pub kv: u64,
    /// Blobs.
    pub blobs: u64,
    /// Secrets.
    pub secrets: u64,
}

/// The whole body of an answer, if it is no larger than answers of this API are.
///
/// # Errors
/// As [`OperatorClient::call`], and [`CallError::Answer`].
pub async fn read_body(
    client: &OperatorClient,
    response: Response<ResponseBody>,
) -> Result<Bytes, CallError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(match error.downcast() {
            Ok(broken) => *broken,
            Err(too_large) => CallError::Answer {
                address: client.address(),
                reason: too_large.to_string(),
            },
        }),
    }
}

/// The answer as what it should be.
///
/// # Errors
/// As [`read_body`].
pub async fn json<T: DeserializeOwned>(
    client: &OperatorClient,
    response: Response<ResponseBody>,
) -> Result<T, CallError> {
    let body = read_body(client, response).await?;
    serde_json::from_slice(&body).map_err(|error| CallError::Answer {
        address: client.address(),
        reason: error.to_string(),
    })
}
