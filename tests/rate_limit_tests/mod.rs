//! What the tests of the rate limits are made of.

pub(crate) mod history;
pub(crate) mod naive;
