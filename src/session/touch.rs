//! Restarts idle timeouts.

use crate::{
    flight::Role,
    session::{
        commit::enlist_later,
        layer::Config,
        store::{Committed, Delta},
        token::Token,
    },
    telemetry::{self, SESSION_TOTAL},
};
use std::sync::Arc;

/// Restarts the idle timeout in a task of its own, unless another request of this process is at it.
/// Nobody waits for it, and if it fails the next request tries again.
pub(crate) fn slide(config: &Arc<Config>, token: Token) {
    let config = config.clone();
    let Role::Lead(flight) = config.slides.join(&token.selector().to_string()) else { return };
    config.store.tasks().spawn_if_possible(async move {
        touch(&config, token).await;
        flight.land(());
    });
}

/// Whether a cookie that was read may be sent again: a login or a rotation since then has sent another,
/// which this one must not replace. `false` also if another request of this process is at it, or if the
/// store fails; the next request tries again.
pub(crate) async fn still_holds(config: &Arc<Config>, token: Token) -> bool {
    let Role::Lead(flight) = config.slides.join(&token.selector().to_string()) else {
        return false;
    };
    let holds = touch(config, token).await;
    flight.land(());
    holds
}

/// Restarts the idle timeout of a session if the token proves it, and says whether it does.
async fn touch(config: &Arc<Config>, token: Token) -> bool {
    let limits = config.terms.limits;
    let slide = config.store.commit(&token.selector(), &token.hash(), Delta::default(), limits);
    match config.bounded("a session slide", slide).await {
        Ok(Committed::Done { note, .. }) => {
            telemetry::count(SESSION_TOTAL, "touched");
            enlist_later(config, note, token.selector());
            return true;
        }
        Ok(_) => telemetry::count(SESSION_TOTAL, "gone"),
        Err(error) => telemetry::store_failed("session", &error),
    }
    false
}
