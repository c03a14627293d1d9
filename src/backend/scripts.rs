//! Every script of this crate, for those who meet them on the server.

use crate::connection::Script;

/// The scripts of the middleware that are compiled in.
pub(super) fn all() -> impl Iterator<Item = &'static Script> {
    let scripts: [&[&'static Script]; 6] = [
        #[cfg(feature = "session")]
        crate::session::SCRIPTS,
        #[cfg(not(feature = "session"))]
        &[],
        #[cfg(feature = "rate-limit")]
        crate::rate_limit::SCRIPTS,
        #[cfg(not(feature = "rate-limit"))]
        &[],
        #[cfg(feature = "idempotency")]
        crate::idempotency::SCRIPTS,
        #[cfg(not(feature = "idempotency"))]
        &[],
        #[cfg(feature = "coalesce")]
        crate::coalesce::SCRIPTS,
        #[cfg(not(feature = "coalesce"))]
        &[],
        #[cfg(feature = "cache")]
        crate::cache::SCRIPTS,
        #[cfg(not(feature = "cache"))]
        &[],
        #[cfg(feature = "lock")]
        crate::lock::SCRIPTS,
        #[cfg(not(feature = "lock"))]
        &[],
    ];
    scripts.into_iter().flatten().copied()
}
