//! The session as one request sees it, and what is to become of it. No I/O.

use crate::{
    marks::UserId,
    session::{
        error::Error,
        policy,
        store::{Absolute, Change, Delta, Fields, Limit, Limits, Record},
        token::Token,
    },
};
use bytes::Bytes;
use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

type Changes = BTreeMap<Box<str>, Change>;

/// Longest user id: it is stored in each of the user's sessions.
const MAX_USER: usize = 255;

/// What a layer says about every session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) idle: Duration,
    pub(crate) absolute: Option<Duration>,
    pub(crate) throttle: Option<Duration>,
    pub(crate) limits: Limits,
    /// Whether the cookie outlives the browser, and so must be sent again when the session slides.
    pub(crate) persistent: bool,
}

/// One request's view of its session: what was loaded, with its own changes made to it.
pub(crate) struct State {
    terms: Terms,
    /// The session in the store; `None` if there is none yet, or none any more.
    live: Option<Live>,
    /// Whether the request brought a cookie of the session's name.
    presented: bool,
    writes: Writes,
    user: Option<UserId>,
    fields: Arc<Fields>,
    pending: Pending,
    slide_due: bool,
    cookie: Option<CookieChange>,
}

struct Live {
    token: Token,
    user: Option<UserId>,
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
    Set(Token),
    Remove,
}

/// What has not been sent to the store.
#[derive(Default)]
struct Pending {
    end: Option<End>,
    rotate: bool,
    clear: bool,
    changes: Changes,
    login: Option<Login>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The handler said so.
    Destroy,
    /// Another user logged in.
    OtherUser,
}

struct Login {
    user: UserId,
    /// The changes since: what a fresh session gets if this one is gone by then.
    since: Changes,
}

/// One step to take in the store.
pub(crate) enum Work {
    Create(Fresh),
    Commit { token: Token, rotated: Option<Token>, delta: Delta, or_else: Option<Fresh> },
    End { token: Token, user: Option<UserId>, then: Option<Fresh> },
}

/// A session to make.
pub(crate) struct Fresh {
    pub(crate) user: Option<UserId>,
    pub(crate) fields: Fields,
}

/// How a step went.
pub(crate) enum Outcome {
    Created {
        token: Token,
        user: Option<UserId>,
    },
    /// The session was gone, and a login made this one in its place.
    Replaced {
        token: Token,
        user: Option<UserId>,
        fields: Fields,
    },
    /// `user` is the one it was bound to by this step.
    Committed {
        token: Token,
        user: Option<UserId>,
        sums: Vec<(Box<str>, i64)>,
    },
    Ended,
    Gone,
    Failed(Error),
}

impl State {
    /// A request without a session.
    pub(crate) fn anonymous(terms: Terms, presented: bool) -> Self {
        Self {
            terms,
            live: None,
            presented,
            writes: Writes::Saved,
            user: None,
            fields: Arc::default(),
            pending: Pending::default(),
            slide_due: false,
            cookie: None,
        }
    }

    /// A request that goes on without the store, and saves nothing.
    pub(crate) fn read_only(terms: Terms, presented: bool) -> Self {
        Self { writes: Writes::Refused, ..Self::anonymous(terms, presented) }
    }

    pub(crate) fn loaded(terms: Terms, token: Token, record: Record) -> Self {
        let throttle = terms.throttle.unwrap_or_else(|| policy::default_throttle(record.idle));
        Self {
            live: Some(Live { token, user: record.user.clone() }),
            slide_due: policy::slide_is_due(record.ttl, record.longest_ttl, throttle),
            user: record.user,
            fields: record.fields,
            ..Self::anonymous(terms, true)
        }
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
        self.pending.each(|changes| {
            changes.insert(name.into(), Change::Set(value.clone()));
        });
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
        Arc::make_mut(&mut self.fields).insert(name.into(), value.clone());
        self.pending.each(|changes| {
            let change = match changes.get(name) {
                Some(Change::Set(_) | Change::Remove) => Change::Set(value.clone()),
                Some(Change::Increment(before)) => Change::Increment(before + by),
                None => Change::Increment(by),
            };
            changes.insert(name.into(), change);
        });
        Ok(sum)
    }

    /// Whether there was one to remove; if not, there is nothing to do.
    pub(crate) fn remove(&mut self, name: &str) -> Result<Option<Bytes>, Error> {
        self.writable()?;
        if !self.fields.contains_key(name) {
            return Ok(None);
        }
        self.pending.each(|changes| {
            changes.insert(name.into(), Change::Remove);
        });
        Ok(Arc::make_mut(&mut self.fields).remove(name))
    }

    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        self.writable()?;
        if !self.fields.is_empty() {
            self.fields = Arc::default();
            self.pending.clear = true;
            self.pending.each(Changes::clear);
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
        if self.user.as_ref().is_some_and(|other| *other != user) {
            self.start_over(End::OtherUser);
        }
        self.user = Some(user.clone());
        let login = || Login { user, since: Changes::new() };
        self.pending.login.get_or_insert_with(login);
        Ok(())
    }

    pub(crate) fn destroy(&mut self) {
        self.start_over(End::Destroy);
    }

    fn start_over(&mut self, end: End) {
        // What the handler asked for holds whatever the response is; a change of user does not.
        let destroyed = self.pending.end == Some(End::Destroy);
        let end = if destroyed { End::Destroy } else { end };
        self.pending = Pending { end: Some(end), ..Pending::default() };
        self.fields = Arc::default();
        self.user = None;
    }

    /// Drops what a failed request wanted to save. What it wanted to destroy is destroyed.
    pub(crate) fn discard(&mut self) {
        let end = self.pending.end.filter(|end| *end == End::Destroy);
        self.pending = Pending { end, ..Pending::default() };
    }

    pub(crate) fn is_pending(&self) -> bool {
        let Pending { end, rotate, clear, changes, login } = &self.pending;
        end.is_some() || *rotate || *clear || !changes.is_empty() || login.is_some()
    }

    /// The next step to take, which counts as taken from now on.
    pub(crate) fn plan(&mut self) -> Result<Option<Work>, Error> {
        let pending = mem::take(&mut self.pending);
        if self.writes == Writes::Refused {
            let destroys = pending.end == Some(End::Destroy) && self.presented;
            return if destroys { Err(Error::read_only()) } else { Ok(None) };
        }
        let fresh = pending.fresh(self.writes == Writes::Dropped);
        let Some(live) = &self.live else {
            if pending.end == Some(End::Destroy) && self.presented {
                self.cookie = Some(CookieChange::Remove);
            }
            return Ok(fresh.map(Work::Create));
        };
        let token = live.token;
        if pending.end.is_some() {
            let user = live.user.clone();
            return Ok(Some(Work::End { token, user, then: fresh }));
        }
        let or_else = pending.login.as_ref().map(Login::fresh);
        let rotated = (pending.rotate || or_else.is_some()).then(|| token.rotated());
        if rotated.is_none() && !pending.clear && pending.changes.is_empty() {
            return Ok(None);
        }
        let mut delta = Delta {
            verifier: rotated.map(|token| token.hash()),
            clear: pending.clear,
            changes: pending.changes,
            ..Delta::default()
        };
        if let Some(login) = pending.login {
            delta.user = Some(login.user);
            delta.idle = Some(self.terms.idle);
            delta.absolute = Absolute::from(self.terms.absolute);
        }
        Ok(Some(Work::Commit { token, rotated, delta, or_else }))
    }

    /// Takes in how a step went.
    pub(crate) fn settle(&mut self, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Created { token, user } => {
                self.live = Some(Live { token, user });
                self.writes = Writes::Saved;
                self.slide_due = false;
                self.cookie = Some(CookieChange::Set(token));
            }
            Outcome::Replaced { token, user, fields } => {
                self.fields = Arc::new(fields);
                self.overlay();
                return self.settle(Outcome::Created { token, user });
            }
            Outcome::Committed { token, user, sums } => {
                let slides = mem::take(&mut self.slide_due) && self.terms.persistent;
                let before = self.live.take();
                let rotated = before.as_ref().is_none_or(|live| !live.token.is(&token));
                let user = user.or(before.and_then(|live| live.user));
                self.live = Some(Live { token, user });
                if slides || rotated {
                    self.cookie = Some(CookieChange::Set(token));
                }
                for (name, sum) in sums {
                    self.see(name, sum);
                }
            }
            Outcome::Ended => {
                self.live = None;
                self.slide_due = false;
                self.cookie = Some(CookieChange::Remove);
            }
            Outcome::Gone => {
                self.live = None;
                self.slide_due = false;
                self.writes = Writes::Dropped;
                self.user = None;
                self.fields = Arc::default();
                return Err(Error::gone());
            }
            Outcome::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// What concurrent requests made of a counter, unless this one has changed it again since.
    fn see(&mut self, name: Box<str>, sum: i64) {
        if !self.pending.changes.contains_key(&name) && self.fields.contains_key(&name) {
            Arc::make_mut(&mut self.fields).insert(name, policy::text(sum));
        }
    }

    /// The session whose idle timeout is to be restarted, once. Any commit restarts it too.
    pub(crate) fn take_slide(&mut self) -> Option<Token> {
        let token = self.live.as_ref()?.token;
        if !mem::take(&mut self.slide_due) {
            return None;
        }
        if self.terms.persistent && self.cookie.is_none() {
            self.cookie = Some(CookieChange::Set(token));
        }
        Some(token)
    }

    pub(crate) fn cookie(&self) -> Option<CookieChange> {
        self.cookie
    }

    /// Makes what has not been sent yet visible again after the fields were replaced.
    fn overlay(&mut self) {
        let fields = Arc::make_mut(&mut self.fields);
        for (name, value) in fields_of(&self.pending.changes) {
            fields.insert(name, value);
        }
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

impl Pending {
    /// The changes, and those since the login if there was one.
    fn each(&mut self, change: impl Fn(&mut Changes)) {
        change(&mut self.changes);
        if let Some(login) = &mut self.login {
            change(&mut login.since);
        }
    }

    /// The session that these changes make where there is none. A session that ended during the
    /// request leaves nothing behind but a login.
    fn fresh(&self, after_end: bool) -> Option<Fresh> {
        if let (Some(login), true) = (&self.login, after_end) {
            return Some(login.fresh());
        }
        let user = self.login.as_ref().map(|login| login.user.clone());
        let fields = fields_of(&self.changes);
        let wanted = user.is_some() || (!after_end && !fields.is_empty());
        wanted.then_some(Fresh { user, fields })
    }
}

impl Login {
    fn fresh(&self) -> Fresh {
        Fresh { user: Some(self.user.clone()), fields: fields_of(&self.since) }
    }
}

fn fields_of(changes: &Changes) -> Fields {
    let made = changes.iter().filter_map(|(name, change)| match change {
        Change::Set(value) => Some((name.clone(), value.clone())),
        Change::Increment(by) => Some((name.clone(), policy::text(*by))),
        Change::Remove => None,
    });
    made.collect()
}
