//! Real HTTP over loopback: a server for any tower service, a plain client, and a browser.

pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod cookies;
pub(crate) mod server;
pub(crate) mod wire;

/// The error of bodies and services, whatever they are.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
