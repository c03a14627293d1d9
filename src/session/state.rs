//! The session as one request sees it, and what is to become of it. No I/O.

use crate::{
    marks::UserId,
    session::{
        error::Error,
        pending::{Changes, End, Login, Pending, fields_of},
        policy,
        step::{Outcome, Work},
        store::{Absolute, Change, Delta, Fields, Limit, Limits, Record},
        token::Token,
    },
};
use bytes::Bytes;
use std::{mem, sync::Arc, time::Duration};

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
        !self.pending.is_empty()
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
            clear: pending.clear || pending.clear_besides,
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
    };

    fn loaded(fields: &[(&str, &'static str)]) -> State {
        let token = Token::random();
        let fields: Fields =
            fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        State::loaded(TERMS, token, Record::new(token.hash(), TERMS.idle, fields))
    }

    fn set(state: &mut State, name: &str, value: &'static str) {
        state.set(name, value.into()).unwrap();
    }

    fn login(state: &mut State, user: &str) {
        state.login(UserId::new(user)).unwrap();
    }

    fn delta(state: &mut State) -> Delta {
        match state.plan().unwrap() {
            Some(Work::Commit { delta, .. }) => delta,
            _ => panic!("a live session is committed"),
        }
    }

    fn fresh(state: &mut State) -> Option<Fresh> {
        match state.plan().unwrap() {
            Some(Work::Create(fresh)) => Some(fresh),
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
        let Some(Work::Commit { rotated, delta, or_else, .. }) = state.plan().unwrap() else {
            panic!("a live session is committed");
        };
        assert!(rotated.is_some() && delta.idle.is_some());
        assert_eq!(delta.changes["n"], Change::Increment(3));
        let Fresh { user, fields } = or_else.unwrap();
        assert_eq!(names(&fields), ["late", "n"]);
        assert_eq!(fields["n"], "2");
        // While the step was under way, one more field was set.
        set(&mut state, "later", "1");
        let token = Token::random();
        state.settle(Outcome::Replaced { token, user, fields }).unwrap();
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
        state.settle(Outcome::Committed { token, user: None, sums }).unwrap();
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
