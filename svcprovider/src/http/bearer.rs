//! Checks the bearer token of a request.

use bismuth_handover::TokenDigest;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use subtle::ConstantTimeEq as _;

/// Whether the one `Authorization` of a request is `Bearer` with the token that has this digest.
pub(crate) fn is_shown(headers: &HeaderMap, token: &TokenDigest) -> bool {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(credentials), None) = (given.next(), given.next()) else {
        return false;
    };
    let Some((scheme, shown)) = credentials.as_bytes().split_at_checked(b"Bearer ".len()) else {
        return false;
    };
    // What is compared are digests, so that even the time of hashing tells only the length.
    let digest = TokenDigest::of(shown.trim_ascii());
    let same: bool = digest.0.ct_eq(&token.0).into();
    same && scheme.eq_ignore_ascii_case(b"Bearer ")
}
