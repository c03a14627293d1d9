//! The connection against a real server: what it does when all is well, and when it is not.

mod errors;
mod hints;
mod link;
mod retries;
mod scripts;
mod server;
#[cfg(feature = "redis-tls")]
mod tls;
