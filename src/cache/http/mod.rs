//! RFC 9111 and its neighbours as pure functions: no I/O, and no clock of their own.

pub(crate) mod age;
pub(crate) mod combine;
pub(crate) mod date;
pub(crate) mod directives;
pub(crate) mod extent;
pub(crate) mod freshness;
pub(crate) mod groups;
pub(crate) mod invalidate;
pub(crate) mod language;
pub(crate) mod range;
pub(crate) mod serve;
pub(crate) mod storing;
pub(crate) mod targeted;
pub(crate) mod update;
pub(crate) mod validate;
pub(crate) mod vary;
