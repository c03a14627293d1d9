//! Changing a field by what it holds, whoever else does so at the same time.

use crate::{
    session::{
        commit::{enlist_later, failed},
        error::Error,
        expiry,
        field::{Field, legal},
        handle::{Session, decode},
        state::{Held, too_large},
        store::{Swap, Swapped},
    },
    telemetry::{self, SESSION_TOTAL},
    token,
};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// How often a change is tried, with a pause that grows to 20 ms: about a second.
const TRIES: u32 = 100;

impl Session {
    /// Changes a field by what it holds: at once, and so that of concurrent changes none is lost. If
    /// another request has changed the field meanwhile, `change` is called again with what it holds
    /// now. A field that is not there begins as the default; one with a
    /// [time to live](Session::set_for) keeps it.
    ///
    /// ```
    /// use towerkeep::session::{Error, Key, Session};
    ///
    /// const CART: Key<Vec<String>> = Key::new("cart");
    ///
    /// async fn add(session: Session, item: String) -> Result<usize, Error> {
    ///     session
    ///         .update(CART, |cart| {
    ///             cart.push(item.clone());
    ///             cart.len()
    ///         })
    ///         .await
    /// }
    /// ```
    ///
    /// It is one round trip if nobody else is at it, and holds whatever the response is. What else this
    /// request has changed waits for the end as ever, unless the field itself or the whole session is
    /// concerned (a login, a rotation): then it is saved first. For integers, [`incr`](Session::incr)
    /// costs less.
    ///
    /// # Errors
    ///
    /// [`Error::is_decode`] if the field does not hold a `T`, [`Error::is_gone`] if the session has
    /// ended meanwhile, [`Error::is_too_large`], [`Error::is_unavailable`] if the store fails, and
    /// [`Error::is_contended`] if a hundred tries found it changed. Nothing is changed then.
    pub async fn update<T, R>(
        &self,
        field: impl Field<T>,
        mut change: impl FnMut(&mut T) -> R,
    ) -> Result<R, Error>
    where
        T: DeserializeOwned + Serialize + Default,
    {
        let name = legal(field.name())?;
        let mut running = self.running().await;
        self.carry_on(&mut running).await?;
        if self.state().must_be_saved_before(name) {
            self.save(&mut running).await?;
        }
        for attempt in 0..TRIES {
            let now = self.config().store.clock().now();
            let Held { token, stored } = self.state().held(name)?;
            let (value, result) = apply(name, stored.as_ref(), now, &mut change)?;
            let Some(token) = token else {
                // There is no session yet, so nobody else can be at it.
                self.state().set(name, value)?;
                self.save(&mut running).await?;
                return Ok(result);
            };
            let (limits, swap) = (self.limits(), Swap::new(name, stored, value.clone()));
            let swap = self.config().store.swap(&token.selector(), &token.hash(), swap, limits);
            match self.config().bounded("a session swap", swap).await.map_err(failed)? {
                Swapped::Done { note, .. } => {
                    telemetry::count(SESSION_TOTAL, "modified");
                    enlist_later(self.config(), note, token.selector());
                    self.state().swapped(name, value);
                    return Ok(result);
                }
                Swapped::Changed(stored) => self.state().seen(name, stored, now),
                Swapped::Gone | Swapped::Rotated => {
                    telemetry::count(SESSION_TOTAL, "gone");
                    return Err(self.state().gone());
                }
                Swapped::TooLarge(limit) => return Err(too_large(limit, limits)),
            }
            pause(attempt).await;
        }
        Err(Error::contended(name))
    }
}

/// What becomes of the stored field.
fn apply<T, R>(
    name: &str,
    stored: Option<&Bytes>,
    now: Duration,
    change: &mut impl FnMut(&mut T) -> R,
) -> Result<(Bytes, R), Error>
where
    T: DeserializeOwned + Serialize + Default,
{
    let held = stored.map(expiry::open);
    let held = held.filter(|(_, expires)| expires.is_none_or(|expires| now < expires));
    let mut value = match &held {
        Some((json, _)) => decode(name, json)?,
        None => T::default(),
    };
    let result = change(&mut value);
    let json = serde_json::to_vec(&value).map_err(|source| Error::encode(name, source))?;
    let stored = match held {
        Some((_, Some(expires))) => expiry::until(expires, &json),
        _ => expiry::plain(json),
    };
    Ok((stored, result))
}

/// The first tries come at once; then those that are in each other's way spread out.
async fn pause(attempt: u32) {
    if attempt >= 3 {
        let most_us = u64::from(attempt.min(20)) * 1_000;
        tokio::time::sleep(Duration::from_micros(token::jitter(most_us))).await;
    }
}
