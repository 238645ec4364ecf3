//! How the router is looked at and spoken to from outside.

pub mod admin;
pub mod page;
