//! Random histories of idempotency records, and the model that knows how they have to go.

pub(crate) mod history;
mod naive;
