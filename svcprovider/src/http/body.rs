//! Reads request bodies, whole or as a stream, with timeouts and a size limit.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::body_error::{BODY_TIMEOUT, IDLE_TIMEOUT, RequestBodyError};
use super::memory::RequestBudget;
use super::problems::{self, Refusal};

/// The next bytes; `None` at the end.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, RequestBodyError> {
    loop {
        let frame = tokio::time::timeout(IDLE_TIMEOUT, body.frame())
            .await
            .map_err(|_elapsed| RequestBodyError::Silent)?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(RequestBodyError::CutOff(error)),
            // Trailers say nothing here.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The whole body, if it has at most `most` bytes. Its end, and that of all that is cut out of it, gives its room back.
pub(crate) async fn collect(
    budget: RequestBudget<'_>,
    body: Incoming,
    most: usize,
) -> Result<Bytes, Refusal> {
    collect_times(budget, body, most, 1).await
}

/// As [`collect`], with room for so many times its bytes: for what is made of it as well.
pub(crate) async fn collect_times(
    budget: RequestBudget<'_>,
    body: Incoming,
    most: usize,
    times: usize,
) -> Result<Bytes, Refusal> {
    let announced = body.size_hint().lower();
    if announced > most as u64 {
        return Err(problems::too_large(most as u64));
    }
    // What does not say how much it is may be all that it may.
    let exact = body.size_hint().exact();
    let bytes = exact.map_or(most, |exact| exact as usize);
    let permit = budget.acquire(bytes * times).await?;
    let whole = tokio::time::timeout(BODY_TIMEOUT, whole(body, announced as usize, most));
    let whole = whole.await.map_err(|_elapsed| RequestBodyError::Slow)??;
    Ok(permit.keep(whole))
}

async fn whole(mut body: Incoming, announced: usize, most: usize) -> Result<Bytes, Refusal> {
    let Some(first) = next(&mut body).await? else {
        return Ok(Bytes::new());
    };
    if first.len() >= announced && body.is_end_stream() {
        return within(first, most);
    }
    let mut whole = BytesMut::with_capacity(first.len().max(announced));
    whole.extend_from_slice(&first);
    while let Some(bytes) = next(&mut body).await? {
        if whole.len() + bytes.len() > most {
            return Err(problems::too_large(most as u64));
        }
        whole.extend_from_slice(&bytes);
    }
    within(whole.freeze(), most)
}

fn within(bytes: Bytes, most: usize) -> Result<Bytes, Refusal> {
    if bytes.len() > most {
        return Err(problems::too_large(most as u64));
    }
    Ok(bytes)
}

/// The body as it comes.
pub(crate) fn stream(body: Incoming) -> impl Stream<Item = Result<Bytes, RequestBodyError>> + Send {
    stream::try_unfold(body, async |mut body| {
        let bytes = next(&mut body).await?;
        Ok(bytes.map(|bytes| (bytes, body)))
    })
}
