//! Bad input gets a clear answer and changes nothing, end to end.
//!
//! ```text
//!  addressing    who is asked for does not exist, or is asked ambiguously     bismuthfe
//!  definitions   what cannot be a function                                    bismuth-api
//!  programs      what cannot be started, and what dies                        bismuthd
//!  operators     what is typed wrongly, or twice                              bismuthctl, bismuthd
//! ```

#[path = "../common/mod.rs"]
mod common;

mod addressing;
mod definitions;
mod operators;
mod programs;
