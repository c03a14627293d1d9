//! What is kept of users in memory.

use crate::{
    clock::Clock,
    expiring::{ENTRY_OVERHEAD, Entry, Expiring, WhenFull},
    marks::UserId,
    session::{
        memory::MemoryStore,
        policy,
        token::Selector,
        user_store::{MOST_LISTED, Trail, UserStore},
    },
    store::{StoreError, StoreFuture},
};
use bytes::Bytes;
use std::{collections::VecDeque, time::Duration};

/// The lists and trails of all users. A list is refused when there is no room, like a session; the
/// trail that would expire first makes room for another.
pub(crate) struct Users {
    lists: Expiring<Vec<Listed>>,
    trails: Expiring<VecDeque<Bytes>>,
}

/// One session of a user's.
#[derive(Clone)]
struct Listed {
    selector: Selector,
    seen_ms: u64,
}

impl Users {
    /// At most about `capacity` bytes each.
    pub(crate) fn new(clock: &Clock, capacity: usize) -> Self {
        let soonest = WhenFull::EvictSoonestToExpire { may_evict: |_| true };
        let refuse = WhenFull::Refuse { what: "list of sessions" };
        Self {
            lists: Expiring::new(clock.clone(), capacity, refuse),
            trails: Expiring::new(clock.clone(), capacity, soonest),
        }
    }
}

impl UserStore for MemoryStore {
    fn enlist(&self, user: &UserId, selector: &Selector, idle: Duration) -> StoreFuture<usize> {
        // Here it costs nothing to look which of them are there no more.
        let held = self.users().lists.with(user.as_str(), |entry| {
            entry.get().map(|list| list.iter().map(|listed| listed.selector).collect::<Vec<_>>())
        });
        let gone: Vec<_> =
            held.unwrap_or_default().into_iter().filter(|held| !self.has(held)).collect();
        StoreFuture::ready(self.users().lists.with(user.as_str(), |entry| {
            let now_ms = entry.now_ms();
            let ends_us = (now_ms + policy::list_ttl_ms(idle)) * 1_000;
            let ends_us = entry.expires_us().map_or(ends_us, |end| end.max(ends_us));
            let mut list = entry.get().cloned().unwrap_or_default();
            list.retain(|listed| {
                let kept =
                    !gone.contains(&listed.selector) || !is_old(listed, policy::SPARED, now_ms);
                kept && listed.selector != *selector
            });
            list.push(Listed { selector: *selector, seen_ms: now_ms });
            let listed = list.len();
            put(entry, list, ends_us).map(|()| listed)
        }))
    }

    fn unlist(&self, user: &UserId, selectors: &[Selector], spared: Duration) -> StoreFuture<()> {
        StoreFuture::ready(self.users().lists.with(user.as_str(), |entry| {
            let (now_ms, ends_us) = (entry.now_ms(), entry.expires_us());
            let Some(mut list) = entry.get().cloned() else { return Ok(()) };
            list.retain(|listed| {
                !selectors.contains(&listed.selector) || !is_old(listed, spared, now_ms)
            });
            match ends_us {
                Some(ends_us) if !list.is_empty() => put(entry, list, ends_us),
                _ => {
                    entry.remove();
                    Ok(())
                }
            }
        }))
    }

    fn listed(&self, user: &UserId) -> StoreFuture<Vec<(Selector, Duration)>> {
        StoreFuture::ready(Ok(self.users().lists.with(user.as_str(), |entry| {
            let list = entry.get().map(|list| &list[..]).unwrap_or_default();
            let mut list: Vec<_> = list
                .iter()
                .map(|listed| (listed.selector, Duration::from_millis(listed.seen_ms)))
                .collect();
            list.sort_by_key(|(selector, seen)| (std::cmp::Reverse(*seen), *selector));
            list.truncate(MOST_LISTED);
            list
        })))
    }

    fn append(&self, user: &UserId, events: Vec<Bytes>, trail: Trail) -> StoreFuture<()> {
        StoreFuture::ready(self.users().trails.with(user.as_str(), |entry| {
            let ends_us = entry.now_us() + policy::whole_ms(trail.ttl) * 1_000;
            let mut kept = entry.get().cloned().unwrap_or_default();
            events.into_iter().for_each(|event| kept.push_front(event));
            kept.truncate(trail.events);
            let weight = ENTRY_OVERHEAD
                + kept.iter().map(|event| event.len() + size_of::<Bytes>()).sum::<usize>();
            entry.insert(kept, ends_us, weight)
        }))
    }

    fn recent(&self, user: &UserId, count: usize) -> StoreFuture<Vec<Bytes>> {
        StoreFuture::ready(Ok(self.users().trails.with(user.as_str(), |entry| {
            let kept = entry.get().map(|kept| kept.iter().take(count).cloned().collect());
            kept.unwrap_or_default()
        })))
    }
}

fn is_old(listed: &Listed, spared: Duration, now_ms: u64) -> bool {
    now_ms.saturating_sub(listed.seen_ms) >= policy::optional_ms(spared)
}

fn put(
    entry: &mut Entry<'_, Vec<Listed>>,
    list: Vec<Listed>,
    ends_us: u64,
) -> Result<(), StoreError> {
    let weight = ENTRY_OVERHEAD + list.len() * size_of::<Listed>();
    entry.insert(list, ends_us, weight)
}
