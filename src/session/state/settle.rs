//! What the store said.

use crate::session::{
    error::Error,
    expiry,
    pending::fields_of,
    policy,
    state::{CookieChange, Live, State, Writes},
    step::{Done, Made, Outcome},
};
use bytes::Bytes;
use std::{mem, sync::Arc, time::Duration};

impl State {
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
    pub(super) fn slid(&mut self) {
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

    /// Makes what has not been sent yet visible again after the fields were replaced.
    fn overlay(&mut self) {
        let fields = Arc::make_mut(&mut self.fields);
        for (name, value) in fields_of(&self.pending.changes) {
            fields.insert(name, value);
        }
    }
}
