//! What the integration tests and benches share: real servers, faults on the wire, HTTP and processes.
//!
//! Nothing here knows towerkeep, so the same module serves a test binary (`mod support;`) and, by
//! `#[path]`, a bench or a test inside the crate. Paths within it are relative for that reason.

// Every test binary compiles this module anew and uses its own part of it.
#![allow(dead_code)]

pub(crate) mod cluster;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod resp;
pub(crate) mod sentinel;
pub(crate) mod server;

mod guarded;
mod hex;
pub(crate) mod ports;
pub(crate) mod temp_dir;
