//! Sessions in the memory of this process.

use crate::{
    clock::Clock,
    context::Context,
    expiring::{ENTRY_OVERHEAD, Entry, Expiring, WhenFull},
    marks::UserId,
    session::{
        memory_users::Users,
        policy::{self, Refusal, Stored, Write},
        store::{
            Committed, Created, Delta, Destroyed, Limits, NewSession, Record, SessionStore, Swap,
            Swapped,
        },
        token::{Selector, VerifierHash},
    },
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// Bytes that sessions take at most if nobody says otherwise: 64 MiB.
pub(crate) const DEFAULT_CAPACITY: usize = 64 * 1024 * 1024;

/// Weight of a field beside its name and value.
const FIELD_OVERHEAD: usize = 64;

/// Keeps sessions in this process: the same rules as in Redis, for development, tests and
/// single-process applications.
///
/// It holds at most 64 MiB (the default) and never drops a live session: one more is refused with
/// [`StoreError::is_full`], which the layer answers with 503. A cheap clone; clones share the
/// sessions.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    sessions: Expiring<Stored>,
    users: Users,
    tasks: Tasks,
    clock: Clock,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(&Context::default(), DEFAULT_CAPACITY)
    }
}

impl MemoryStore {
    /// At most about `capacity` bytes.
    pub(crate) fn new(context: &Context, capacity: usize) -> Self {
        let when_full = WhenFull::Refuse { what: "session" };
        let sessions = Expiring::new(context.clock.clone(), capacity, when_full);
        let users = Users::new(&context.clock, capacity);
        let (tasks, clock) = (context.tasks.clone(), context.clock.clone());
        Self(Arc::new(Inner { sessions, users, tasks, clock }))
    }

    pub(crate) fn users(&self) -> &Users {
        &self.0.users
    }

    /// Whether there is a session.
    pub(crate) fn has(&self, selector: &Selector) -> bool {
        self.with(selector, |entry| entry.expires_us().is_some())
    }

    fn with<R>(&self, selector: &Selector, step: impl FnOnce(&mut Entry<'_, Stored>) -> R) -> R {
        self.0.sessions.with(selector.to_string(), step)
    }

    fn end(
        &self,
        selector: &Selector,
        may: impl FnOnce(&Stored) -> bool,
    ) -> StoreFuture<Destroyed> {
        StoreFuture::ready(Ok(self.with(selector, |entry| match entry.get() {
            Some(stored) if may(stored) => {
                let user = entry.remove().and_then(|stored| stored.user);
                Destroyed::Done { user }
            }
            _ => Destroyed::Nothing,
        })))
    }
}

impl SessionStore for MemoryStore {
    fn load(&self, selector: &Selector) -> StoreFuture<Option<Record>> {
        StoreFuture::ready(Ok(self.with(selector, |entry| {
            let (now_ms, ttl_us) = (entry.now_ms(), entry.ttl_us()?);
            entry.get().map(|stored| record(stored, ttl_us, now_ms))
        })))
    }

    fn load_field(&self, selector: &Selector, field: &str) -> StoreFuture<Option<Record>> {
        StoreFuture::ready(Ok(self.with(selector, |entry| {
            let (now_ms, ttl_us) = (entry.now_ms(), entry.ttl_us()?);
            let stored = entry.get()?;
            let mut record = record(stored, ttl_us, now_ms);
            let held = stored.fields.get_key_value(field);
            let held = held.map(|(name, value)| (name.clone(), value.clone()));
            record.fields = Arc::new(held.into_iter().collect());
            (record.user, record.device) = (None, None);
            (record.created, record.noted) = (Duration::ZERO, Duration::ZERO);
            Some(record)
        })))
    }

    fn create(&self, selector: &Selector, new: NewSession, limits: Limits) -> StoreFuture<Created> {
        StoreFuture::ready(self.with(selector, |entry| {
            if entry.get().is_some() {
                return Ok(Created::Taken);
            }
            match policy::create(new, limits, entry.now_ms()) {
                Ok((stored, ttl_ms)) => {
                    put(entry, stored, ttl_ms)?;
                    Ok(Created::Done { ttl: Duration::from_millis(ttl_ms) })
                }
                Err(limit) => Ok(Created::TooLarge(limit)),
            }
        }))
    }

    fn commit(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        delta: Delta,
        limits: Limits,
    ) -> StoreFuture<Committed> {
        StoreFuture::ready(self.with(selector, |entry| {
            let now_ms = entry.now_ms();
            let Some(stored) = entry.get() else { return Ok(Committed::Gone) };
            match policy::commit(stored, presented, &delta, limits, now_ms) {
                Ok(Write { stored, ttl_ms, sums, note }) => {
                    let (ttl, persistent) = (Duration::from_millis(ttl_ms), stored.persistent);
                    put(entry, stored, ttl_ms)?;
                    Ok(Committed::Done { ttl, persistent, sums, note })
                }
                Err(Refusal::Gone | Refusal::Changed(_)) => Ok(Committed::Gone),
                Err(Refusal::Rotated) => Ok(Committed::Rotated),
                Err(Refusal::OtherUser) => Ok(Committed::OtherUser),
                Err(Refusal::NotAnInteger(field)) => Ok(Committed::NotAnInteger(field)),
                Err(Refusal::TooLarge(limit)) => Ok(Committed::TooLarge(limit)),
            }
        }))
    }

    fn swap(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        swap: Swap,
        limits: Limits,
    ) -> StoreFuture<Swapped> {
        StoreFuture::ready(self.with(selector, |entry| {
            let now_ms = entry.now_ms();
            let Some(stored) = entry.get() else { return Ok(Swapped::Gone) };
            match policy::swap(stored, presented, &swap, limits, now_ms) {
                Ok(Write { stored, ttl_ms, note, .. }) => {
                    put(entry, stored, ttl_ms)?;
                    Ok(Swapped::Done { ttl: Duration::from_millis(ttl_ms), note })
                }
                Err(Refusal::Changed(held)) => Ok(Swapped::Changed(held)),
                Err(Refusal::Rotated) => Ok(Swapped::Rotated),
                Err(Refusal::TooLarge(limit)) => Ok(Swapped::TooLarge(limit)),
                Err(Refusal::Gone | Refusal::OtherUser | Refusal::NotAnInteger(_)) => {
                    Ok(Swapped::Gone)
                }
            }
        }))
    }

    fn destroy(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        user: Option<&UserId>,
    ) -> StoreFuture<Destroyed> {
        self.end(selector, |stored| policy::may_destroy(stored, presented, user))
    }

    fn revoke(&self, selector: &Selector, user: &UserId) -> StoreFuture<Destroyed> {
        self.end(selector, |stored| stored.user.as_ref() == Some(user))
    }

    fn tasks(&self) -> Tasks {
        self.0.tasks.clone()
    }

    fn clock(&self) -> Clock {
        self.0.clock.clone()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryStore").field(&self.0.sessions).finish()
    }
}

fn record(stored: &Stored, ttl_us: u64, now_ms: u64) -> Record {
    let longest_ms = policy::ttl_ms(stored.idle_ms, stored.deadline_ms, now_ms);
    let mut record =
        Record::new(stored.verifier, Duration::from_millis(stored.idle_ms), stored.fields.clone());
    record.user = stored.user.clone();
    record.created = Duration::from_millis(stored.created_ms);
    record.persistent = stored.persistent;
    record.device = stored.device.clone();
    record.noted = Duration::from_millis(stored.noted_ms);
    record.previous = stored.previous.map(|(verifier, _)| verifier);
    record.ttl = Some(Duration::from_millis(ttl_us.div_ceil(1_000)));
    record.longest_ttl = Duration::from_millis(longest_ms);
    record
}

/// An entry that grows may find no room; the old one stays then.
fn put(entry: &mut Entry<'_, Stored>, stored: Stored, ttl_ms: u64) -> Result<(), StoreError> {
    let weight = ENTRY_OVERHEAD
        + size_of::<Stored>()
        + stored.bytes
        + stored.fields.len() * FIELD_OVERHEAD
        + stored.device.as_ref().map_or(0, Bytes::len)
        + stored.user.as_ref().map_or(0, |user| user.as_str().len());
    let expires_us = entry.now_us() + ttl_ms * 1_000;
    entry.insert(stored, expires_us, weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        session::{store::Change, token::Token},
    };

    fn store(capacity: usize) -> (Clock, MemoryStore) {
        let clock = Clock::manual();
        let context = Context { clock: clock.clone(), ..Context::default() };
        (clock, MemoryStore::new(&context, capacity))
    }

    async fn create(store: &MemoryStore, token: &Token) -> Result<Created, StoreError> {
        let new = NewSession::new(token.hash(), Duration::from_secs(60));
        store.create(&token.selector(), new, Limits::default()).await
    }

    #[tokio::test]
    async fn a_full_store_refuses_the_new_session_and_keeps_the_old_ones() {
        // Enough for each shard to have some that could be evicted.
        let (clock, store) = store(50_000);
        let mut held = Vec::new();
        let error = loop {
            let token = Token::random();
            match create(&store, &token).await {
                Ok(_) if held.len() < 500 => held.push(token),
                Ok(_) => panic!("so many sessions take more than 50,000 bytes"),
                Err(error) => break error,
            }
        };
        assert!(error.is_full(), "{error}");
        for token in &held {
            assert!(store.load(&token.selector()).await.unwrap().is_some());
        }
        clock.advance(Duration::from_secs(61));
        create(&store, &Token::random()).await.expect("expired sessions make room");
    }

    #[tokio::test]
    async fn a_commit_that_finds_no_room_changes_nothing() {
        let (_, store) = store(1_000);
        let token = Token::random();
        create(&store, &token).await.unwrap();
        let mut delta = Delta::default();
        delta.changes.insert("a".into(), Change::Set(vec![b'1'; 2_000].into()));
        let commit = store.commit(&token.selector(), &token.hash(), delta, Limits::default());
        assert!(commit.await.unwrap_err().is_full());
        let record = store.load(&token.selector()).await.unwrap().unwrap();
        assert!(record.fields.is_empty());
    }
}
