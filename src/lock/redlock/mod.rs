//! Locks that a majority of independent stores grants.

mod handle;
mod lane;
mod quorum;
mod tally;

pub use self::handle::Redlock;
pub(super) use self::quorum::Quorum;
