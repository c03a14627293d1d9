//! Tags and purges: the verbs of the store, the layer and its handle, and races of both.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

mod cache_tags_tests {
    mod failover;
    mod purging;
    mod races;
    mod store;
    mod turns;

    pub(crate) mod app;
    pub(crate) mod verbs;
}
