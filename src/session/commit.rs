//! Takes one step in the store.

use crate::{
    marks::UserId,
    session::{
        error::Error,
        layer::Config,
        limit::bind,
        pending::Fresh,
        state::{Terms, too_large},
        step::{Done, Made, Outcome, Step, Work},
        store::{Change, Committed, Created, Delta, Destroyed, NewSession, Note},
        token::{Selector, Token},
    },
    store::StoreError,
    telemetry::{self, SESSION_TOTAL},
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// A random selector is taken about never; more than once in a row, something else is wrong.
const TRIES: usize = 3;

/// One round trip, also where one session ends and another begins, and with what is noted of users.
pub(crate) async fn execute(config: Arc<Config>, step: Step) -> Outcome {
    let Step { work, events } = step;
    let (outcome, ()) = tokio::join!(take(&config, work), append(&config, events));
    outcome.unwrap_or_else(Outcome::Failed)
}

async fn take(config: &Arc<Config>, work: Work) -> Result<Outcome, Error> {
    match work {
        Work::Nothing => Ok(Outcome::Nothing),
        Work::Create { fresh, stale } => create(config, fresh, stale).await,
        Work::Commit { token, rotated, delta, or_else } => {
            commit(config, token, rotated, delta, or_else).await
        }
        Work::End { token, user, then } => end(config, token, user, then).await,
    }
}

async fn create(
    config: &Arc<Config>,
    fresh: Fresh,
    stale: Option<Token>,
) -> Result<Outcome, Error> {
    if let (Some(token), None) = (stale, &fresh.user) {
        // Asked now, by the store's clock: a new cookie must not take the place of the one that is
        // on its way to this client.
        let ask = Delta::default();
        let asked = config.store.commit(&token.selector(), &token.hash(), ask, config.terms.limits);
        let asked = config.bounded("a session commit", asked).await.map_err(failed)?;
        if asked == Committed::Rotated {
            telemetry::count(SESSION_TOTAL, "gone");
            return Ok(Outcome::Gone);
        }
    }
    make(config, fresh).await.map(Outcome::Created)
}

async fn make(config: &Arc<Config>, fresh: Fresh) -> Result<Made, Error> {
    let Terms { idle, absolute, limits, .. } = config.terms;
    let mut new = NewSession::new(Token::random().hash(), fresh.remember.unwrap_or(idle));
    new.absolute = fresh.remember.or(absolute);
    new.persistent = fresh.remember.is_some();
    new.user = fresh.user;
    new.device = fresh.device;
    new.fields = fresh.fields;
    for _ in 0..TRIES {
        let token = Token::random();
        new.verifier = token.hash();
        let step = || {
            let create = config.store.create(&token.selector(), new.clone(), limits);
            config.bounded("a session create", create)
        };
        let binds = |created: &Created| matches!(created, Created::Done { .. });
        match bind(config, new.user.as_ref(), token.selector(), new.idle, step, binds).await? {
            Created::Done { ttl } => {
                telemetry::count(SESSION_TOTAL, "created");
                let lasts = new.persistent.then_some(ttl);
                return Ok(Made { token, user: new.user, lasts });
            }
            Created::TooLarge(limit) => return Err(too_large(limit, limits)),
            Created::Taken => {}
        }
    }
    Err(failed(StoreError::corrupt("the session store says that every random selector is taken")))
}

async fn commit(
    config: &Arc<Config>,
    token: Token,
    rotated: Option<Token>,
    delta: Delta,
    or_else: Option<Fresh>,
) -> Result<Outcome, Error> {
    let names = incremented(&delta);
    let (user, limits) = (delta.user.clone(), config.terms.limits);
    let idle = delta.idle.unwrap_or(config.terms.idle);
    let remembers = delta.persistent == Some(true);
    let step = || {
        let commit = config.store.commit(&token.selector(), &token.hash(), delta, limits);
        config.bounded("a session commit", commit)
    };
    let binds = |committed: &Committed| matches!(committed, Committed::Done { .. });
    match bind(config, user.as_ref(), token.selector(), idle, step, binds).await? {
        Committed::Done { ttl, persistent, sums, note } => {
            telemetry::count(SESSION_TOTAL, "modified");
            enlist_later(config, note, token.selector());
            let sums = names.into_iter().zip(sums).collect();
            let token = rotated.unwrap_or(token);
            let lasts = persistent.then_some(ttl);
            Ok(Outcome::Committed(Done { token, user, remembers, lasts, sums }))
        }
        // The session ended before its changes arrived: they are dropped, but a login holds.
        Committed::Gone | Committed::Rotated | Committed::OtherUser => {
            telemetry::count(SESSION_TOTAL, "gone");
            let Some(fresh) = or_else else { return Ok(Outcome::Gone) };
            let fields = fresh.fields.clone();
            Ok(Outcome::Replaced(make(config, fresh).await?, fields))
        }
        Committed::TooLarge(limit) => Err(too_large(limit, limits)),
        Committed::NotAnInteger(field) => Err(Error::not_an_integer(&field)),
    }
}

async fn end(
    config: &Arc<Config>,
    token: Token,
    user: Option<UserId>,
    then: Option<Fresh>,
) -> Result<Outcome, Error> {
    let selector = token.selector();
    let ended = config.store.destroy(&selector, &token.hash(), user.as_ref());
    let ended = config.bounded("a session destroy", ended);
    let unlisted = async {
        if let Some(user) = &user {
            let unlist = config.store.unlist(user, &[selector], Duration::ZERO);
            let unlisted = config.bounded("a list of sessions", unlist).await;
            // It would only be a session that is not there.
            unlisted.unwrap_or_else(|error| telemetry::store_failed("session", &error));
        }
    };
    let next = async {
        match then {
            Some(fresh) => make(config, fresh).await.map(Outcome::Created),
            None => Ok(Outcome::Ended),
        }
    };
    let (ended, (), next) = tokio::join!(ended, unlisted, next);
    if let (Err(_), Some(user)) = (&ended, &user) {
        // It may live on, and in no list it is one that nobody could revoke.
        let idle = config.terms.idle;
        enlist_later(config, Some(Note::new(user.clone(), idle)), selector);
    }
    match ended.map_err(failed)? {
        Destroyed::Done { .. } => telemetry::count(SESSION_TOTAL, "destroyed"),
        Destroyed::Nothing => telemetry::count(SESSION_TOTAL, "gone"),
    }
    next
}

/// Notes a session in its user's list, if that is due, in a task of its own.
pub(crate) fn enlist_later(config: &Arc<Config>, note: Option<Note>, selector: Selector) {
    let Some(Note { user, idle }) = note else { return };
    let config = config.clone();
    config.store.tasks().spawn_if_possible(async move {
        let enlist = config.store.enlist(&user, &selector, idle);
        if let Err(error) = config.bounded("a list of sessions", enlist).await {
            telemetry::store_failed("session", &error);
        }
    });
}

/// A trail is for people to read: an event that is lost is no reason to fail a request that is done.
async fn append(config: &Config, events: Vec<(UserId, Bytes)>) {
    let mut rest = events.into_iter().peekable();
    while let Some((user, event)) = rest.next() {
        let mut events = vec![event];
        while let Some((_, event)) = rest.next_if(|(next, _)| *next == user) {
            events.push(event);
        }
        let append = config.store.append(&user, events, config.trail);
        if let Err(error) = config.bounded("a user's trail", append).await {
            telemetry::store_failed("session", &error);
        }
    }
}

pub(crate) fn failed(error: StoreError) -> Error {
    telemetry::store_failed("session", &error);
    error.into()
}

/// The fields whose sums the store returns, in the order in which it does.
fn incremented(delta: &Delta) -> Vec<Box<str>> {
    let increments =
        delta.changes.iter().filter(|(_, change)| matches!(change, Change::Increment(_)));
    increments.map(|(name, _)| name.clone()).collect()
}
