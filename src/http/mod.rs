//! What the router reads of a client's bytes: the request line, and the session id in it.
//!
//! Owns the questions "is this HTTP, and whole?" ([`request_line`]), "which session?" ([`sid`]) and,
//! where a load balancer stands in front, "whose connection is it?" ([`proxy`]).
//! Reads no header and no body: those are the worker's, and stay in the kernel until it reads them.
//! Every byte here was chosen by a stranger, so nothing in this room may panic.
#![deny(clippy::indexing_slicing, clippy::expect_used, clippy::unwrap_used, clippy::panic)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod proxy;
pub mod request_line;
pub mod sid;
