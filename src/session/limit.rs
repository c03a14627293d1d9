//! A user's list, and how many sessions may be in it.

use crate::{
    marks::UserId,
    session::{
        commit::failed,
        error::Error,
        layer::Config,
        sessions::{Device, devices, unlist_later},
        store::SessionStore,
        token::Selector,
    },
    store::StoreFuture,
    telemetry,
};
use std::{sync::Arc, time::Duration};

/// How often a list that nobody limits or reads is looked through for sessions that have ended: each
/// time that it has grown by so many.
const TIDY_EVERY: usize = 32;

/// What a login does when the user has as many sessions as there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMaxSessions {
    /// The one that was not seen for longest is ended.
    #[default]
    EvictOldest,
    /// The login is refused with [`Error::is_too_many_sessions`](super::Error::is_too_many_sessions):
    /// status 409.
    Reject,
}

/// Takes a step that binds a session to a user, if there is one, and notes it in the user's list: both
/// in one round trip. The list comes first, so that nobody looks for the session in vain, and unless
/// both are done the client is not given the cookie.
pub(crate) async fn bind<T>(
    config: &Arc<Config>,
    user: Option<&UserId>,
    selector: Selector,
    idle: Duration,
    step: impl FnOnce() -> StoreFuture<T>,
    binds: impl FnOnce(&T) -> bool,
) -> Result<T, Error> {
    let Some(user) = user else { return step().await.map_err(failed) };
    if let Some((most, OnMaxSessions::Reject)) = config.max_sessions
        && others(config, user, selector).await?.len() >= most
    {
        return Err(Error::too_many_sessions(most));
    }
    let enlist = config.store.enlist(user, &selector, idle);
    let enlist = config.bounded("a list of sessions", enlist);
    let (listed, done) = tokio::join!(enlist, step());
    let (listed, done) = (listed.map_err(failed)?, done.map_err(failed)?);
    if binds(&done) {
        match config.max_sessions {
            Some((most, OnMaxSessions::EvictOldest)) if listed > most => {
                evict(config, user, selector, most).await?;
            }
            _ if listed % TIDY_EVERY == 0 => tidy_later(config, user),
            _ => {}
        }
    }
    Ok(done)
}

/// Ends the sessions that were not seen for longest, until there are `most` with the new one.
async fn evict(
    config: &Arc<Config>,
    user: &UserId,
    selector: Selector,
    most: usize,
) -> Result<(), Error> {
    // The latest first, and the new one is not among them.
    for device in others(config, user, selector).await?.iter().skip(most.saturating_sub(1)) {
        let revoke = config.store.revoke(&device.handle, user);
        config.bounded("a session destroy", revoke).await.map_err(failed)?;
        unlist_later(&config.store, user, vec![device.handle], Duration::ZERO);
        telemetry::count(telemetry::SESSION_TOTAL, "evicted");
    }
    Ok(())
}

/// The user's other sessions.
async fn others(
    config: &Arc<Config>,
    user: &UserId,
    selector: Selector,
) -> Result<Vec<Device>, Error> {
    let mut devices = devices(&config.store, user).await.map_err(failed)?;
    devices.retain(|device| device.handle != selector);
    Ok(devices)
}

fn tidy_later(config: &Arc<Config>, user: &UserId) {
    let (config, user) = (config.clone(), user.clone());
    config.store.tasks().spawn_if_possible(async move {
        if let Err(error) = devices(&config.store, &user).await {
            telemetry::store_failed("session", &error);
        }
    });
}
