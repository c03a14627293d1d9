//! The session as one request sees it, and what is to become of it. No I/O.

use crate::{
    marks::UserId,
    session::{
        error::Error,
        expiry,
        pending::{Changes, End, Login, Pending, fields_of},
        policy,
        step::{Done, Made, Outcome, Step, Work},
        store::{Absolute, Change, Delta, Fields, Limit, Limits, Record},
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

    /// The next step to take, which counts as taken from now on.
    pub(crate) fn plan(&mut self) -> Result<Option<Step>, Error> {
        let mut pending = mem::take(&mut self.pending);
        if self.writes == Writes::Refused {
            let destroys = pending.end == Some(End::Destroy) && self.presented;
            return if destroys { Err(Error::read_only()) } else { Ok(None) };
        }
        let events = mem::take(&mut pending.events);
        let work = match self.live {
            Some(ref live) => self.change(live, pending),
            None => self.begin(pending),
        };
        Ok(match work {
            None if events.is_empty() => None,
            work => Some(Step { work: work.unwrap_or(Work::Nothing), events }),
        })
    }

    /// What to do where there is no session.
    fn begin(&mut self, pending: Pending) -> Option<Work> {
        if pending.end == Some(End::Destroy) && self.presented {
            self.cookie = Some(CookieChange::Remove);
        }
        let fresh = pending.fresh(self.writes == Writes::Dropped)?;
        Some(Work::Create { fresh, stale: self.stale })
    }

    /// What to do with a session.
    fn change(&self, live: &Live, mut pending: Pending) -> Option<Work> {
        let token = live.token;
        if pending.end.is_some() {
            let then = pending.fresh(false);
            return Some(Work::End { token, user: live.user.clone(), then });
        }
        if pending.changes_nothing() {
            return None;
        }
        for (name, stored) in &self.expired {
            let gone = || Change::RemoveIf(stored.clone());
            pending.changes.entry(name.clone()).or_insert_with(gone);
        }
        let or_else = pending.after_login();
        let rotated = (pending.rotate || or_else.is_some()).then(|| token.rotated());
        let mut delta = Delta {
            verifier: rotated.map(|token| token.hash()),
            device: pending.device,
            clear: pending.clear || pending.clear_besides,
            changes: pending.changes,
            ..Delta::default()
        };
        if let Some(login) = pending.login {
            delta.user = Some(login.user);
            delta.idle = Some(self.terms.idle);
            delta.absolute = Absolute::from(self.terms.absolute);
            delta.persistent = Some(false);
        }
        if let Some(length) = pending.remember {
            delta.idle = Some(length);
            delta.absolute = Absolute::In(length);
            delta.persistent = Some(true);
        }
        Some(Work::Commit { token, rotated, delta, or_else })
    }

    /// Takes in how a step went.
    pub(crate) fn settle(&mut self, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Created(Made { token, user, lasts }) => {
                self.live = Some(Live { token, user, lasts });
                self.stale = None;
                self.writes = Writes::Saved;
                self.slide_due = false;
                self.resend = false;
                self.cookie = Some(CookieChange::Set(token, lasts));
            }
            Outcome::Replaced(made, fields) => {
                self.fields = Arc::new(fields);
                self.overlay();
                return self.settle(Outcome::Created(made));
            }
            Outcome::Committed(done) => self.settle_commit(done),
            Outcome::Ended => {
                self.live = None;
                self.slide_due = false;
                self.resend = false;
                self.cookie = Some(CookieChange::Remove);
            }
            Outcome::Gone => return Err(self.gone()),
            Outcome::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn settle_commit(&mut self, done: Done) {
        let Done { token, user, remembers, lasts, sums } = done;
        self.expired.clear();
        let before = self.live.take();
        let rotated = before.as_ref().is_none_or(|live| !live.token.is(&token));
        let user = user.or(before.and_then(|live| live.user));
        self.live = Some(Live { token, user, lasts });
        self.slid();
        if rotated || remembers {
            self.cookie = Some(CookieChange::Set(token, lasts));
        }
        for (name, sum) in sums {
            self.see(name, sum);
        }
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

    /// What the store has in a field turned out to be this.
    pub(crate) fn seen(&mut self, name: &str, stored: Option<Bytes>, now: Duration) {
        self.expired.remove(name);
        let fields = Arc::make_mut(&mut self.fields);
        fields.remove(name);
        if let Some(stored) = stored {
            let live = expiry::value(&stored, now).is_some();
            let kind = if live { fields } else { &mut self.expired };
            kind.insert(name.into(), stored);
        }
    }

    /// A field was swapped, which has restarted the idle timeout too.
    pub(crate) fn swapped(&mut self, name: &str, stored: Bytes) {
        self.expired.remove(name);
        Arc::make_mut(&mut self.fields).insert(name.into(), stored);
        self.slid();
    }

    /// The idle timeout was restarted, and the cookie's with it, if it has one. A session that is
    /// remembered keeps its end, and so its cookie.
    fn slid(&mut self) {
        self.slide_due = false;
        let resend = mem::take(&mut self.resend);
        if let (None, Some(Live { token, lasts, .. })) = (self.cookie, &self.live)
            && (resend || (self.terms.persistent && lasts.is_none()))
        {
            self.cookie = Some(CookieChange::Set(*token, *lasts));
        }
    }

    /// The session has ended.
    pub(crate) fn gone(&mut self) -> Error {
        self.live = None;
        self.cookie = None;
        self.stale = None;
        self.slide_due = false;
        self.resend = false;
        self.writes = Writes::Dropped;
        self.user = None;
        self.fields = Arc::default();
        self.expired.clear();
        Error::gone()
    }

    /// What concurrent requests made of a counter, unless this one has changed it again since.
    fn see(&mut self, name: Box<str>, sum: i64) {
        if !self.pending.changes.contains_key(&name) && self.fields.contains_key(&name) {
            Arc::make_mut(&mut self.fields).insert(name, policy::text(sum));
        }
    }

    /// The session whose idle timeout is to be restarted, once. Any commit restarts it too.
    pub(crate) fn take_slide(&mut self) -> Option<Token> {
        mem::take(&mut self.slide_due).then(|| self.token()).flatten()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::pending::Fresh;

    const TERMS: Terms = Terms {
        idle: Duration::from_secs(60),
        absolute: None,
        throttle: None,
        limits: Limits::new(4, 60),
        persistent: false,
        clear_on_login: false,
        most_events: 2,
    };

    fn loaded(fields: &[(&str, &'static str)]) -> State {
        let token = Token::random();
        let fields: Fields =
            fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        State::loaded(TERMS, token, Record::new(token.hash(), TERMS.idle, fields), Duration::ZERO)
    }

    fn set(state: &mut State, name: &str, value: &'static str) {
        state.set(name, value.into()).unwrap();
    }

    fn login(state: &mut State, user: &str) {
        state.login(UserId::new(user)).unwrap();
    }

    fn delta(state: &mut State) -> Delta {
        match state.plan().unwrap() {
            Some(Step { work: Work::Commit { delta, .. }, .. }) => delta,
            _ => panic!("a live session is committed"),
        }
    }

    fn fresh(state: &mut State) -> Option<Fresh> {
        match state.plan().unwrap() {
            Some(Step { work: Work::Create { fresh, .. }, .. }) => Some(fresh),
            None => None,
            Some(_) => panic!("there is no live session"),
        }
    }

    fn names(fields: &Fields) -> Vec<&str> {
        fields.keys().map(|name| &**name).collect()
    }

    #[test]
    fn increments_stay_increments_until_the_field_is_overwritten() {
        let mut state = loaded(&[("a", "10"), ("b", "1")]);
        assert_eq!(state.increment("a", 2).unwrap(), 12);
        assert_eq!(state.increment("a", -5).unwrap(), 7);
        set(&mut state, "b", "40");
        assert_eq!(state.increment("b", 2).unwrap(), 42);
        state.remove("a").unwrap();
        assert_eq!(state.increment("a", 1).unwrap(), 1);
        assert_eq!(state.increment("c", 3).unwrap(), 3);
        let changes = delta(&mut state).changes;
        assert_eq!(changes["a"], Change::Set("1".into()));
        assert_eq!(changes["b"], Change::Set("42".into()));
        assert_eq!(changes["c"], Change::Increment(3));
        state.increment("c", 4).unwrap();
        assert_eq!(delta(&mut state).changes["c"], Change::Increment(4));
    }

    #[test]
    fn an_increment_that_no_store_would_take_is_refused_at_once() {
        let mut state = loaded(&[("low", "-9007199254740991"), ("text", "\"1\"")]);
        assert!(state.increment("text", 1).unwrap_err().is_not_an_integer());
        state.increment("low", policy::MAX_INTEGER).unwrap();
        assert!(state.increment("low", policy::MAX_INTEGER).unwrap_err().is_not_an_integer());
        assert_eq!(delta(&mut state).changes["low"], Change::Increment(policy::MAX_INTEGER));
    }

    #[test]
    fn what_would_not_fit_is_refused_and_leaves_the_rest_as_it_was() {
        let mut state = loaded(&[("a", "1"), ("b", "1"), ("c", "1")]);
        set(&mut state, "d", "1");
        assert!(state.set("e", "1".into()).unwrap_err().is_too_large());
        assert!(state.increment("e", 1).unwrap_err().is_too_large());
        assert!(state.set("a", vec![b'1'; 54].into()).unwrap_err().is_too_large());
        state.set("a", vec![b'1'; 53].into()).unwrap();
        assert_eq!(names(state.fields()), ["a", "b", "c", "d"]);
        assert_eq!(delta(&mut state).changes.len(), 2);
    }

    #[test]
    fn a_login_clears_what_another_request_put_into_an_empty_session_meanwhile() {
        let mut state = loaded(&[]);
        state.clear().unwrap();
        login(&mut state, "ann");
        set(&mut state, "a", "1");
        let delta = delta(&mut state);
        assert!(delta.clear && delta.changes.contains_key("a"));
    }

    #[test]
    fn what_changes_nothing_is_not_worth_a_round_trip() {
        let mut state = loaded(&[]);
        state.remove("a").unwrap();
        state.clear().unwrap();
        assert!(state.plan().unwrap().is_none());
        let mut visitor = State::anonymous(TERMS, false);
        visitor.rotate();
        visitor.destroy();
        assert!(visitor.plan().unwrap().is_none());
        set(&mut visitor, "a", "1");
        visitor.remove("a").unwrap();
        assert!(visitor.plan().unwrap().is_none());
        assert!(visitor.cookie().is_none());
    }

    #[test]
    fn a_session_that_is_gone_takes_no_more_changes_but_a_login() {
        let mut state = loaded(&[("a", "1")]);
        set(&mut state, "a", "2");
        state.plan().unwrap();
        assert!(state.settle(Outcome::Gone).unwrap_err().is_gone());
        set(&mut state, "b", "1");
        assert!(fresh(&mut state).is_none());
        set(&mut state, "c", "1");
        login(&mut state, "ann");
        set(&mut state, "d", "1");
        let fresh = fresh(&mut state).unwrap();
        assert_eq!((fresh.user.unwrap().as_str(), names(&fresh.fields)), ("ann", vec!["d"]));
    }

    #[test]
    fn a_login_that_finds_its_session_gone_keeps_what_came_after_it() {
        let mut state = loaded(&[("n", "5")]);
        set(&mut state, "early", "1");
        state.increment("n", 1).unwrap();
        login(&mut state, "ann");
        set(&mut state, "late", "1");
        state.increment("n", 2).unwrap();
        let Some(Step { work: Work::Commit { rotated, delta, or_else, .. }, .. }) =
            state.plan().unwrap()
        else {
            panic!("a live session is committed");
        };
        assert!(rotated.is_some() && delta.idle.is_some());
        assert_eq!(delta.changes["n"], Change::Increment(3));
        let Fresh { user, fields, .. } = or_else.unwrap();
        assert_eq!(names(&fields), ["late", "n"]);
        assert_eq!(fields["n"], "2");
        // While the step was under way, one more field was set.
        set(&mut state, "later", "1");
        let token = Token::random();
        state.settle(Outcome::Replaced(Made { token, user, lasts: None }, fields)).unwrap();
        assert_eq!(names(state.fields()), ["late", "later", "n"]);
        assert_eq!(delta_names(&mut state), ["later"]);
    }

    fn delta_names(state: &mut State) -> Vec<String> {
        delta(state).changes.keys().map(|name| name.to_string()).collect()
    }

    #[test]
    fn another_user_begins_with_nothing_whether_the_first_was_saved_or_not() {
        let mut visitor = State::anonymous(TERMS, false);
        login(&mut visitor, "ann");
        set(&mut visitor, "hers", "1");
        login(&mut visitor, "bob");
        set(&mut visitor, "his", "1");
        let fresh = fresh(&mut visitor).unwrap();
        assert_eq!((fresh.user.unwrap().as_str(), names(&fresh.fields)), ("bob", vec!["his"]));
    }

    #[test]
    fn a_user_is_named_and_not_too_long() {
        let mut visitor = State::anonymous(TERMS, false);
        assert!(visitor.login(UserId::new("")).is_err());
        assert!(visitor.login(UserId::new("x".repeat(256))).is_err());
        assert!(visitor.user().is_none());
        login(&mut visitor, &"x".repeat(255));
    }

    #[test]
    fn counters_show_what_concurrent_requests_made_of_them() {
        let mut state = loaded(&[("a", "1"), ("b", "1")]);
        state.increment("a", 1).unwrap();
        state.increment("b", 1).unwrap();
        let token = state.live.as_ref().unwrap().token;
        delta(&mut state);
        set(&mut state, "b", "7");
        let sums = vec![("a".into(), 50), ("b".into(), 60)];
        let done = Done { token, user: None, remembers: false, lasts: None, sums };
        state.settle(Outcome::Committed(done)).unwrap();
        assert_eq!((&state.fields()["a"][..], &state.fields()["b"][..]), (&b"50"[..], &b"7"[..]));
        assert!(state.cookie().is_none(), "the cookie is the same");
    }

    #[test]
    fn without_the_store_nothing_is_changed_and_a_logout_is_not_pretended() {
        let mut state = State::read_only(TERMS, true);
        assert!(state.set("a", "1".into()).unwrap_err().is_unavailable());
        assert!(state.login(UserId::new("ann")).unwrap_err().is_unavailable());
        assert!(state.plan().unwrap().is_none());
        state.destroy();
        assert!(state.plan().err().unwrap().is_unavailable());
    }
}
