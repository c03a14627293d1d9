//! The session as one request sees it, and what is to become of it. No I/O.

mod plan;
mod settle;
#[cfg(test)]
mod tests;

use crate::{
    marks::UserId,
    session::{
        error::Error,
        expiry,
        pending::{Changes, End, Login, Pending},
        policy,
        store::{Change, Fields, Limit, Limits, Record},
        token::Token,
    },
};
use bytes::Bytes;
use std::{mem, sync::Arc, time::Duration};

/// Longest user id: it is stored in each of the user's sessions.
const MAX_USER: usize = 255;

/// The longest description of a device: it is stored in the session, beside its data.
const MAX_DEVICE: usize = 1_024;

/// What a layer says about every session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) idle: Duration,
    pub(crate) absolute: Option<Duration>,
    pub(crate) throttle: Option<Duration>,
    pub(crate) limits: Limits,
    /// Whether the cookie outlives the browser, and so must be sent again when the session slides.
    pub(crate) persistent: bool,
    /// Whether a login drops what a visitor has stored before it.
    pub(crate) clear_on_login: bool,
    /// How many events one request may record.
    pub(crate) most_events: usize,
}

impl Terms {
    /// How much of this idle timeout must be used up before a read restarts it.
    pub(crate) fn throttle(&self, idle: Duration) -> Duration {
        self.throttle.unwrap_or_else(|| policy::default_throttle(idle))
    }
}

/// A field as the store has it; without a token there is no session.
pub(crate) struct Held {
    pub(crate) token: Option<Token>,
    pub(crate) stored: Option<Bytes>,
}

/// One request's view of its session: what was loaded, with its own changes made to it.
pub(crate) struct State {
    terms: Terms,
    /// The session in the store; `None` if there is none yet, or none any more.
    live: Option<Live>,
    /// Whether the request brought a cookie of the session's name.
    presented: bool,
    /// The cookie that the request brought, if it is the one before a rotation. Who brings it reads
    /// nothing; if the rotation was lately, a new cookie would take the place of the rotation's.
    stale: Option<Token>,
    writes: Writes,
    user: Option<UserId>,
    fields: Arc<Fields>,
    /// What the store still has of fields whose time is over.
    expired: Fields,
    pending: Pending,
    slide_due: bool,
    /// Whether the cookie is to be sent again once the store has confirmed that it still holds.
    resend: bool,
    cookie: Option<CookieChange>,
}

struct Live {
    token: Token,
    user: Option<UserId>,
    /// How long its cookie lasts if it outlives the browser by its own wish.
    lasts: Option<Duration>,
}

/// What becomes of changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Saved,
    /// The session ended during the request. Only a login starts another one.
    Dropped,
    /// The store failed, and the request goes on without it.
    Refused,
}

/// What the response tells the client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CookieChange {
    /// With this for its `Max-Age`, if it outlives the browser by its own wish.
    Set(Token, Option<Duration>),
    Remove,
}

impl State {
    /// A request without a session.
    pub(crate) fn anonymous(terms: Terms, presented: bool) -> Self {
        Self {
            terms,
            live: None,
            presented,
            stale: None,
            writes: Writes::Saved,
            user: None,
            fields: Arc::default(),
            expired: Fields::new(),
            pending: Pending::default(),
            slide_due: false,
            resend: false,
            cookie: None,
        }
    }

    /// A request that goes on without the store, and saves nothing.
    pub(crate) fn read_only(terms: Terms, presented: bool) -> Self {
        Self { writes: Writes::Refused, ..Self::anonymous(terms, presented) }
    }

    /// A request that brings the cookie before the last rotation.
    pub(crate) fn stale(terms: Terms, token: Token) -> Self {
        Self { stale: Some(token), ..Self::anonymous(terms, true) }
    }

    /// A request with a session; `now` is the time since the Unix epoch.
    pub(crate) fn loaded(terms: Terms, token: Token, mut record: Record, now: Duration) -> Self {
        let throttle = terms.throttle(record.idle);
        let is_expired = |stored: &Bytes| expiry::value(stored, now).is_none();
        let mut expired = Fields::new();
        if record.fields.values().any(is_expired) {
            let fields = Arc::make_mut(&mut record.fields);
            for (name, stored) in mem::take(fields) {
                let kind = if is_expired(&stored) { &mut expired } else { &mut *fields };
                kind.insert(name, stored);
            }
        }
        let lasts = record.persistent.then_some(record.longest_ttl);
        let slide_due = policy::slide_is_due(&record, throttle, now);
        Self {
            live: Some(Live { token, user: record.user.clone(), lasts }),
            slide_due,
            // A session that is remembered keeps its end, and so its cookie.
            resend: slide_due && terms.persistent && lasts.is_none(),
            user: record.user,
            fields: record.fields,
            expired,
            ..Self::anonymous(terms, true)
        }
    }

    /// Has the cookie sent again, since it is sealed by an old key.
    pub(crate) fn reseal(&mut self) {
        self.resend = self.live.is_some();
    }

    /// Whether the cookie is to be sent again.
    pub(crate) fn resends(&self) -> bool {
        self.resend
    }

    /// The cookie that is to be sent again, once. It might have been replaced since it was read, and
    /// would take the place of the new one.
    pub(crate) fn take_resend(&mut self) -> Option<Token> {
        mem::take(&mut self.resend).then(|| self.token()).flatten()
    }

    /// It holds, and the idle timeout was restarted.
    pub(crate) fn confirmed(&mut self) {
        self.resend = true;
        self.slid();
    }

    /// The session in the store.
    pub(crate) fn token(&self) -> Option<Token> {
        self.live.as_ref().map(|live| live.token)
    }

    pub(crate) fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Whether the store has it, or will have it once this request is done.
    pub(crate) fn exists(&self) -> bool {
        self.pending.login.is_some()
            || (self.live.is_some() && self.pending.end.is_none())
            || !self.fields.is_empty()
    }

    pub(crate) fn set(&mut self, name: &str, value: Bytes) -> Result<(), Error> {
        self.writable()?;
        self.fits(name, &value)?;
        Arc::make_mut(&mut self.fields).insert(name.into(), value.clone());
        self.pending.put(name, &Change::Set(value));
        Ok(())
    }

    pub(crate) fn increment(&mut self, name: &str, by: i64) -> Result<i64, Error> {
        self.writable()?;
        let refused = || Error::not_an_integer(name);
        let sum = policy::sum(self.fields.get(name), by).ok_or_else(refused)?;
        if let Some(Change::Increment(before)) = self.pending.changes.get(name) {
            policy::sum(Some(&policy::text(*before)), by).ok_or_else(refused)?;
        }
        let value = policy::text(sum);
        self.fits(name, &value)?;
        if let Some(stored) = self.expired.remove(name) {
            // What the store has is no integer; this begins anew.
            self.pending.put(name, &Change::RemoveIf(stored));
        }
        Arc::make_mut(&mut self.fields).insert(name.into(), value.clone());
        self.pending.increment(name, by, &value);
        Ok(sum)
    }

    /// Whether there was one to remove; if not, there is nothing to do.
    pub(crate) fn remove(&mut self, name: &str) -> Result<Option<Bytes>, Error> {
        self.writable()?;
        if !self.fields.contains_key(name) {
            return Ok(None);
        }
        self.pending.put(name, &Change::Remove);
        Ok(Arc::make_mut(&mut self.fields).remove(name))
    }

    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        self.writable()?;
        if self.fields.is_empty() {
            self.pending.clear_besides = true;
        } else {
            self.fields = Arc::default();
            self.pending.clear();
        }
        Ok(())
    }

    pub(crate) fn rotate(&mut self) {
        self.pending.rotate = true;
    }

    pub(crate) fn login(&mut self, user: UserId) -> Result<(), Error> {
        self.writable()?;
        if !(1..=MAX_USER).contains(&user.as_str().len()) {
            return Err(Error::illegal_user());
        }
        match &self.user {
            Some(other) if *other != user => self.start_over(End::OtherUser),
            None if self.terms.clear_on_login => self.clear()?,
            _ => {}
        }
        self.user = Some(user.clone());
        let login = || Login { user, since: Changes::new() };
        self.pending.login.get_or_insert_with(login);
        Ok(())
    }

    pub(crate) fn destroy(&mut self) {
        self.start_over(End::Destroy);
    }

    pub(crate) fn remember(&mut self, length: Duration) -> Result<(), Error> {
        self.writable()?;
        self.pending.remember = Some(length);
        Ok(())
    }

    pub(crate) fn set_device(&mut self, device: Bytes) -> Result<(), Error> {
        self.writable()?;
        if device.len() > MAX_DEVICE {
            return Err(Error::too_long("the device", MAX_DEVICE));
        }
        self.pending.device = Some(device);
        Ok(())
    }

    /// Notes what the user did.
    pub(crate) fn record(&mut self, event: Bytes) -> Result<(), Error> {
        self.writable()?;
        let user = self.user.clone().ok_or_else(Error::nobody)?;
        if self.pending.events.len() == self.terms.most_events {
            return Err(Error::too_many_events(self.terms.most_events));
        }
        self.pending.events.push((user, event));
        Ok(())
    }

    fn start_over(&mut self, end: End) {
        // What the handler asked for holds whatever the response is; a change of user does not.
        let destroyed = self.pending.end == Some(End::Destroy);
        let end = if destroyed { End::Destroy } else { end };
        // What they did before is not undone.
        let events = mem::take(&mut self.pending.events);
        self.pending = Pending { end: Some(end), events, ..Pending::default() };
        self.fields = Arc::default();
        self.expired.clear();
        self.user = None;
    }

    /// Drops what a failed request wanted to save. What it wanted to destroy is destroyed.
    pub(crate) fn discard(&mut self) {
        let end = self.pending.end.filter(|end| *end == End::Destroy);
        self.pending = Pending { end, ..Pending::default() };
    }

    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether what is pending has to be saved before this field is swapped.
    pub(crate) fn must_be_saved_before(&self, name: &str) -> bool {
        let Pending { end, rotate, clear, login, changes, .. } = &self.pending;
        end.is_some() || *rotate || *clear || login.is_some() || changes.contains_key(name)
    }

    /// A field as the store has it, as far as this request knows.
    pub(crate) fn held(&self, name: &str) -> Result<Held, Error> {
        self.writable()?;
        let token = self.token();
        if token.is_none() && self.writes == Writes::Dropped {
            return Err(Error::gone());
        }
        let stored = self.fields.get(name).or_else(|| self.expired.get(name)).cloned();
        Ok(Held { token, stored })
    }

    /// The session whose idle timeout is to be restarted, once. Any commit restarts it too.
    pub(crate) fn take_slide(&mut self) -> Option<Token> {
        mem::take(&mut self.slide_due).then(|| self.token()).flatten()
    }

    pub(crate) fn cookie(&self) -> Option<CookieChange> {
        self.cookie
    }

    /// Whether there is room for this value of this field.
    fn fits(&self, name: &str, value: &Bytes) -> Result<(), Error> {
        let (mut count, mut bytes) = (self.fields.len(), policy::weigh(&self.fields));
        match self.fields.get(name) {
            Some(old) => bytes = bytes - old.len() + value.len(),
            None => (count, bytes) = (count + 1, bytes + name.len() + value.len()),
        }
        let limits = self.terms.limits;
        policy::fits(count, bytes, limits).map_err(|limit| too_large(limit, limits))
    }

    fn writable(&self) -> Result<(), Error> {
        if self.writes == Writes::Refused { Err(Error::read_only()) } else { Ok(()) }
    }
}

pub(crate) fn too_large(limit: Limit, limits: Limits) -> Error {
    let most = match limit {
        Limit::Fields => limits.fields,
        Limit::Bytes => limits.bytes,
    };
    Error::too_large(limit, most)
}
