//! The algorithms: what each knows of one key, and what it makes of a request.
//!
//! Each is one pure Rust file and one Lua file of the same name, which say the same. All numbers are
//! integers below 2^53, up to which Lua's are exact; a rule that could exceed it is refused when it is
//! made. What they have in common:
//!
//! - A vacant key is the default state, and a state that is as good as vacant is not stored.
//! - Nothing counts beyond the limit: an unconditional charge fills a count, and never overfills it.
//! - A clock that goes back makes nobody richer. Nobody waits for it longer than for a full allowance
//!   either: such a state is *healed*, which is stored even if the request is denied.
//! - A refund gives back what the very charge took, which its *receipt* tells, and not what has come
//!   back by itself since.

mod concurrency;
mod fixed_window;
mod gcra;
mod sliding_log;
mod sliding_window;
mod token_bucket;

pub use self::{
    concurrency::Concurrency, fixed_window::FixedWindow, gcra::Gcra, sliding_log::SlidingLog,
    sliding_window::SlidingWindow, token_bucket::TokenBucket,
};
pub(crate) use self::{
    concurrency::Leases, fixed_window::Window, sliding_log::Log, sliding_window::Windows,
    token_bucket::Debt,
};

/// One algorithm with its numbers. Times are in microseconds, and a cost is at least 1.
pub(crate) trait Algorithm: Copy {
    /// What is known of one key; the default is what is known of a vacant one.
    type State: Clone + Default;

    /// Bounds what a clock that went back, or a limit that was lowered, would make wait too long.
    /// `true` if it did, and the state is to be stored in any case.
    fn heal(self, state: &mut Self::State, now: u64) -> bool;

    /// How long until a request of `cost` is allowed: 0 if it is, `None` if it never will be.
    /// `receipt` is the charge's own.
    fn retry(self, state: &Self::State, now: u64, cost: u64, receipt: u64) -> Option<u64>;

    /// Takes `cost`, or what is left of it, and returns the receipt.
    fn take(self, state: &mut Self::State, now: u64, cost: u64, receipt: u64) -> u64;

    /// Gives back what was taken with that receipt.
    fn give(self, state: &mut Self::State, now: u64, cost: u64, receipt: u64);

    /// Where the key stands.
    fn view(self, state: &Self::State, now: u64) -> View;
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// How much is left.
    pub(crate) remaining: u64,
    /// How long until the state is as good as vacant; 0 if it is.
    pub(crate) reset_us: u64,
}

/// The largest integer that a Lua number holds exactly, halved for sums of two.
const MAX_EXACT: u64 = (1 << 52) - 1;
