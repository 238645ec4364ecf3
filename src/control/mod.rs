//! How the router is looked at and spoken to from outside.

pub mod admin;
pub mod apps;
pub mod clients;
pub mod home;
pub mod orders;
pub mod page;
pub mod protocol;
pub mod socket;
pub mod targets;
