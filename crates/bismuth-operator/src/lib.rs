//! The client of svcprovider's operator API, for bismuthctl and bismuth-api.
//!
//! ```text
//!  Call ─► token, read anew from its 0600 file ─► one connection, one exchange ─┬─► answer
//!                                                                              └─► CallError: whose fault, what to do
//! ```
//!
//! The API is all that an operator may do with what functions store: keys, blobs and secrets of every group. Who holds the
//! token may do all of it, so the token is never on a command line, and a file that others can read is refused.

mod call;
mod client;
mod error;
mod response;
mod timeout;
mod token;

pub use call::{Call, segment};
pub use client::OperatorClient;
pub use error::{CallError, Refusal};
pub use response::{Purged, json, read_body};
pub use timeout::ResponseBody;
pub use token::{TokenError, read_token};

/// Where svcprovider takes the calls of operators unless told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:9001";
/// Where svcprovider keeps the token unless told otherwise.
pub const DEFAULT_TOKEN_FILE: &str = "/var/lib/bismuth-services/operator.token";
