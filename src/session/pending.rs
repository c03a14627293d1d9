//! What one request wants to become of its session, as long as the store has not been told.

use crate::{
    marks::UserId,
    session::{
        policy,
        store::{Change, Fields},
    },
};
use bytes::Bytes;
use std::{collections::BTreeMap, time::Duration};

pub(crate) type Changes = BTreeMap<Box<str>, Change>;

/// What has not been sent to the store.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) end: Option<End>,
    pub(crate) rotate: bool,
    pub(crate) clear: bool,
    /// It was cleared when there was nothing in it. That is not worth a round trip, but what another
    /// request puts in before this one is saved goes all the same.
    pub(crate) clear_besides: bool,
    pub(crate) changes: Changes,
    pub(crate) login: Option<Login>,
    /// How long it is to be remembered, from now.
    pub(crate) remember: Option<Duration>,
    pub(crate) device: Option<Bytes>,
    /// What users did.
    pub(crate) events: Vec<(UserId, Bytes)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The handler said so.
    Destroy,
    /// Another user logged in.
    OtherUser,
}

pub(crate) struct Login {
    pub(crate) user: UserId,
    /// The changes since: what a fresh session gets if this one is gone by then.
    pub(crate) since: Changes,
}

/// A session to make.
pub(crate) struct Fresh {
    pub(crate) user: Option<UserId>,
    pub(crate) fields: Fields,
    pub(crate) remember: Option<Duration>,
    pub(crate) device: Option<Bytes>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes_nothing() && self.events.is_empty()
    }

    /// Whether there is nothing to do but to note what users did.
    pub(crate) fn changes_nothing(&self) -> bool {
        let Self { end, rotate, clear, changes, login, remember, device, .. } = self;
        end.is_none()
            && !rotate
            && !clear
            && changes.is_empty()
            && login.is_none()
            && remember.is_none()
            && device.is_none()
    }

    pub(crate) fn put(&mut self, name: &str, change: &Change) {
        self.each(|changes| {
            changes.insert(name.into(), change.clone());
        });
    }

    /// An increment of a field that this request has set or removed is another value for it, which
    /// is `value` then.
    pub(crate) fn increment(&mut self, name: &str, by: i64, value: &Bytes) {
        self.each(|changes| {
            let change = match changes.get(name) {
                Some(Change::Set(_) | Change::Remove | Change::RemoveIf(_)) => {
                    Change::Set(value.clone())
                }
                Some(Change::Increment(before)) => Change::Increment(before + by),
                None => Change::Increment(by),
            };
            changes.insert(name.into(), change);
        });
    }

    /// All data goes, and with it what was to become of it.
    pub(crate) fn clear(&mut self) {
        self.clear = true;
        self.each(Changes::clear);
    }

    /// The changes, and those since the login if there was one.
    fn each(&mut self, change: impl Fn(&mut Changes)) {
        change(&mut self.changes);
        if let Some(login) = &mut self.login {
            change(&mut login.since);
        }
    }

    /// The session that these changes make where there is none. A session that ended during the
    /// request leaves nothing behind but a login.
    pub(crate) fn fresh(&self, after_end: bool) -> Option<Fresh> {
        if after_end {
            return self.after_login();
        }
        let fields = fields_of(&self.changes);
        (self.login.is_some() || !fields.is_empty()).then(|| self.make(fields))
    }

    /// The session that a login makes in the place of one that has ended, from what came after it.
    pub(crate) fn after_login(&self) -> Option<Fresh> {
        self.login.as_ref().map(|login| self.make(fields_of(&login.since)))
    }

    fn make(&self, fields: Fields) -> Fresh {
        let user = self.login.as_ref().map(|login| login.user.clone());
        Fresh { user, fields, remember: self.remember, device: self.device.clone() }
    }
}

pub(crate) fn fields_of(changes: &Changes) -> Fields {
    let made = changes.iter().filter_map(|(name, change)| match change {
        Change::Set(value) => Some((name.clone(), value.clone())),
        Change::Increment(by) => Some((name.clone(), policy::text(*by))),
        Change::Remove | Change::RemoveIf(_) => None,
    });
    made.collect()
}
