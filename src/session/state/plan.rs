//! What is to be asked of the store.

use crate::session::{
    error::Error,
    pending::{End, Pending},
    state::{CookieChange, Live, State, Writes},
    step::{Step, Work},
    store::{Absolute, Change, Delta},
};
use std::mem;

impl State {
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
}
