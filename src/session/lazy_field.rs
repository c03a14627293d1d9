//! One field of a session that is not loaded.

use crate::{
    session::{
        commit::enlist_later,
        error::Error,
        expiry,
        field::{Field, legal},
        handle::decode,
        layer::OnStoreError,
        lazy_session::LazySession,
        policy,
        state::too_large,
        store::{Change, Committed, Delta},
    },
    telemetry::{self, SESSION_TOTAL},
};
use serde::{Serialize, de::DeserializeOwned};

impl LazySession {
    /// Reads one field without the others: one round trip for each call, and none if the session is
    /// [loaded](LazySession::load) already or there is no session cookie. For sessions of which a
    /// handler wants little.
    ///
    /// # Errors
    ///
    /// As [`load`](LazySession::load) and [`Session::get`](super::Session::get).
    pub async fn get_field<T: DeserializeOwned>(
        &self,
        field: impl Field<T>,
    ) -> Result<Option<T>, Error> {
        if let Some(session) = self.resolved() {
            return session?.get(field);
        }
        self.touched().set();
        let name = legal(field.name())?;
        let config = self.config();
        for token in self.presented().tokens() {
            let load = config.store.load_field(&token.selector(), name);
            match config.bounded("a session load", load).await {
                Ok(Some(record)) if record.verifier == token.hash() => {
                    let now = config.store.clock().now();
                    let throttle = config.terms.throttle(record.idle);
                    let due = policy::slide_is_due(&record, throttle, now);
                    let lasts = record.persistent.then_some(record.longest_ttl);
                    let slides = due && config.terms.persistent && lasts.is_none();
                    if slides || self.presented().is_outdated(token) {
                        self.resend_later(*token, lasts);
                    } else if due {
                        self.slide_later(*token);
                    }
                    let stored = record.fields.get(name);
                    let value = stored.and_then(|stored| expiry::value(stored, now));
                    return value.map(|value| decode(name, &value)).transpose();
                }
                Ok(_) => {}
                Err(error) => {
                    telemetry::store_failed("session", &error);
                    return match config.on_store_error {
                        OnStoreError::Reject => Err(error.into()),
                        OnStoreError::Anonymous => Ok(None),
                    };
                }
            }
        }
        Ok(None)
    }

    /// Sets one field at once, without loading the session: one round trip. It holds whatever the
    /// status of the response is. A visitor without a session is given one, as by
    /// [`Session::set`](super::Session::set).
    ///
    /// # Errors
    ///
    /// As [`Session::set`](super::Session::set) and [`Session::commit`](super::Session::commit).
    pub async fn set_field<T: Serialize + ?Sized>(
        &self,
        field: impl Field<T>,
        value: &T,
    ) -> Result<(), Error> {
        let name = legal(field.name())?;
        if self.resolved().is_none() {
            self.touched().set();
            let json = serde_json::to_vec(value).map_err(|source| Error::encode(name, source))?;
            let stored = expiry::plain(json);
            let (config, limits) = (self.config(), self.config().terms.limits);
            let mut rotated = false;
            for token in self.presented().tokens() {
                let mut delta = Delta::default();
                delta.changes.insert(name.into(), Change::Set(stored.clone()));
                let commit = config.store.commit(&token.selector(), &token.hash(), delta, limits);
                let commit = config.bounded("a session commit", commit).await;
                match commit.inspect_err(|error| telemetry::store_failed("session", error))? {
                    Committed::Done { ttl, persistent, note, .. } => {
                        telemetry::count(SESSION_TOTAL, "modified");
                        enlist_later(config, note, token.selector());
                        // A session that is remembered keeps its end, and so its cookie.
                        let slides = config.terms.persistent && !persistent;
                        if slides || self.presented().is_outdated(token) {
                            self.send_cookie(*token, persistent.then_some(ttl));
                        }
                        return Ok(());
                    }
                    // Of two cookies, the other may hold.
                    Committed::Rotated => rotated = true,
                    Committed::TooLarge(limit) => return Err(too_large(limit, limits)),
                    Committed::Gone | Committed::OtherUser | Committed::NotAnInteger(_) => {}
                }
            }
            if rotated {
                telemetry::count(SESSION_TOTAL, "gone");
                return Err(Error::gone());
            }
        }
        let session = self.load().await?;
        session.set(field, value)?;
        session.commit().await
    }
}
