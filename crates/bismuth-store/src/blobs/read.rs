//! Reads the bytes of a blob and checks them against its digest.

use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use sha2::{Digest as _, Sha256};

use super::{Blob, Body, ENGINE};
use crate::records::EngineError;

struct Check {
    bytes: Body,
    /// Of the whole blob only: a part has no digest.
    digest: Option<(Sha256, [u8; 32])>,
    missing: u64,
    /// The last chunk is given out when it is known that all is well, so that who reads is not told so by its end.
    held: Option<Bytes>,
}

/// `bytes` as they are, but an error in the place of the last of them if there are more or fewer than in `range`, or if they are the whole blob and
/// not what was stored.
pub(super) fn checked(bytes: Body, blob: &Blob, range: &Range<u64>) -> Body {
    let whole = *range == (0..blob.size);
    let check = Check {
        bytes,
        digest: whole.then(|| (Sha256::new(), blob.sha256)),
        missing: range.end.saturating_sub(range.start),
        held: None,
    };
    Box::pin(stream::try_unfold(Some(check), async |check| match check {
        Some(check) => check.next().await,
        None => Ok(None),
    }))
}

impl Check {
    async fn next(mut self) -> Result<Option<(Bytes, Option<Self>)>, EngineError> {
        while let Some(bytes) = self.bytes.next().await.transpose()? {
            self.missing = self
                .missing
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| broken("longer"))?;
            if let Some((digest, _)) = &mut self.digest {
                digest.update(&bytes);
            }
            if let Some(held) = self.held.replace(bytes) {
                return Ok(Some((held, Some(self))));
            }
        }
        if self.missing > 0 {
            return Err(broken("shorter"));
        }
        if let Some((digest, expected)) = self.digest
            && digest.finalize() != expected
        {
            return Err(broken("not the same"));
        }
        Ok(self.held.map(|held| (held, None)))
    }
}

fn broken(how: &str) -> EngineError {
    EngineError::broken(ENGINE, format!("what was read is {how} as what was stored"))
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;
    use crate::records::Revision;

    async fn read(chunks: &[&'static str], range: Range<u64>) -> (String, bool) {
        let blob = Blob {
            revision: Revision(1),
            size: 6,
            sha256: Sha256::digest("abcdef").into(),
            content_type: None,
            modified_ms: 0,
        };
        let chunks: Vec<_> = chunks.iter().map(|&text| Ok(text.into())).collect();
        let mut body = checked(Box::pin(stream::iter(chunks)), &blob, &range);
        let mut text = String::new();
        loop {
            match body.try_next().await {
                Ok(Some(bytes)) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
                Ok(None) => return (text, true),
                Err(_) => return (text, false),
            }
        }
    }

    #[tokio::test]
    async fn what_was_stored_comes_whole_and_in_parts() {
        assert_eq!(read(&["abc", "def"], 0..6).await, ("abcdef".into(), true));
        assert_eq!(read(&["cd"], 2..4).await, ("cd".into(), true));
        assert_eq!(read(&[], 3..3).await, (String::new(), true));
    }

    #[tokio::test]
    async fn anything_else_breaks_off_before_its_end() {
        assert_eq!(read(&["abc", "deX"], 0..6).await, ("abc".into(), false));
        assert_eq!(read(&["abc", "de"], 0..6).await, ("abc".into(), false));
        assert_eq!(read(&["abc", "defg"], 0..6).await, ("".into(), false));
        assert_eq!(read(&["c"], 2..4).await, (String::new(), false));
    }
}
