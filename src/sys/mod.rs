//! The only unsafe code and the only libc. Thin, safe types over the kernel; no policy.
#![allow(unsafe_code, reason = "this is the room for it: each block states its obligation")]

pub mod cpu;
pub mod process;
