//! Takes one step in the store.

use crate::{
    session::{
        error::Error,
        layer::Config,
        pending::Fresh,
        state::{Terms, too_large},
        step::{Outcome, Work},
        store::{Change, Committed, Created, Delta, Destroyed, NewSession},
        token::Token,
    },
    store::StoreError,
    telemetry::{self, SESSION_TOTAL},
};
use std::sync::Arc;

/// A random selector is taken about never; more than once in a row, something else is wrong.
const TRIES: usize = 3;

/// One round trip, also where one session ends and another begins.
pub(crate) async fn execute(config: Arc<Config>, work: Work) -> Outcome {
    let result = match work {
        Work::Create(fresh) => create(&config, fresh).await,
        Work::Commit { token, rotated, delta, or_else } => {
            let names = incremented(&delta);
            let user = delta.user.clone();
            let limits = config.terms.limits;
            let commit = config.store.commit(&token.selector(), &token.hash(), delta, limits);
            match config.bounded("a session commit", commit).await {
                Ok(Committed::Done { sums, .. }) => {
                    telemetry::count(SESSION_TOTAL, "modified");
                    let sums = names.into_iter().zip(sums).collect();
                    Ok(Outcome::Committed { token: rotated.unwrap_or(token), user, sums })
                }
                Ok(Committed::Gone | Committed::OtherUser) => gone(&config, or_else).await,
                Ok(Committed::TooLarge(limit)) => Err(too_large(limit, limits)),
                Ok(Committed::NotAnInteger(field)) => Err(Error::not_an_integer(&field)),
                Err(error) => Err(failed(error)),
            }
        }
        Work::End { token, user, then } => {
            let end = config.store.destroy(&token.selector(), &token.hash(), user.as_ref());
            let end = config.bounded("a session destroy", end);
            let next = async {
                match then {
                    Some(fresh) => create(&config, fresh).await,
                    None => Ok(Outcome::Ended),
                }
            };
            let (ended, next) = tokio::join!(end, next);
            match ended {
                Ok(Destroyed::Done { .. }) => telemetry::count(SESSION_TOTAL, "destroyed"),
                Ok(Destroyed::Nothing) => telemetry::count(SESSION_TOTAL, "gone"),
                Err(error) => return Outcome::Failed(failed(error)),
            }
            next
        }
    };
    result.unwrap_or_else(Outcome::Failed)
}

async fn create(config: &Config, fresh: Fresh) -> Result<Outcome, Error> {
    let Terms { idle, absolute, limits, .. } = config.terms;
    for _ in 0..TRIES {
        let token = Token::random();
        let mut new = NewSession::new(token.hash(), idle);
        new.absolute = absolute;
        new.user = fresh.user.clone();
        new.fields = fresh.fields.clone();
        let create = config.store.create(&token.selector(), new, limits);
        match config.bounded("a session create", create).await.map_err(failed)? {
            Created::Done { .. } => {
                telemetry::count(SESSION_TOTAL, "created");
                return Ok(Outcome::Created { token, user: fresh.user });
            }
            Created::TooLarge(limit) => return Err(too_large(limit, limits)),
            Created::Taken => {}
        }
    }
    Err(failed(StoreError::corrupt("the session store says that every random selector is taken")))
}

/// The session ended before its changes arrived: they are dropped, but a login holds.
async fn gone(config: &Config, or_else: Option<Fresh>) -> Result<Outcome, Error> {
    telemetry::count(SESSION_TOTAL, "gone");
    let Some(fresh) = or_else else { return Ok(Outcome::Gone) };
    let fields = fresh.fields.clone();
    match create(config, fresh).await? {
        Outcome::Created { token, user } => Ok(Outcome::Replaced { token, user, fields }),
        other => Ok(other),
    }
}

fn failed(error: StoreError) -> Error {
    telemetry::store_failed("session", &error);
    error.into()
}

/// The fields whose sums the store returns, in the order in which it does.
fn incremented(delta: &Delta) -> Vec<Box<str>> {
    let increments =
        delta.changes.iter().filter(|(_, change)| matches!(change, Change::Increment(_)));
    increments.map(|(name, _)| name.clone()).collect()
}
