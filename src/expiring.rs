//! A sharded, bounded map whose entries expire: what every in-memory store is made of.
//!
//! A store's verb is one closure over one locked entry, as a script is one step over one key. Each
//! visit to a shard also looks at a few other entries and drops those that have expired, so memory
//! is given back without a sweeper task. What a full map does is the store's choice: refuse, evict
//! the least recently used, or evict the soonest to expire.

use crate::{clock::Clock, store::StoreError};
use indexmap::{
    IndexMap,
    map::raw_entry_v1::{RawEntryApiV1, RawEntryMut},
};
use std::{
    array, fmt,
    hash::{BuildHasher, RandomState},
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

const SHARDS: usize = 16;

/// How many other entries a visit looks at.
const SWEPT_PER_VISIT: usize = 2;

/// How many entries an eviction chooses from: the whole of a small shard, a sample of a large one.
const EVICTION_SAMPLE: usize = 16;

/// An insert that finds no room sweeps the whole map first, but not more often than this.
const FULL_SWEEP_EVERY_US: u64 = 1_000_000;

/// Weight of an entry beside what its owner says it has.
pub(crate) const ENTRY_OVERHEAD: usize = 96;

/// What a map that is full does with a new entry.
pub(crate) enum WhenFull<V> {
    /// Nothing is evicted; the new entry is refused. `what` names it in the error.
    Refuse { what: &'static str },
    /// The entry that was used least recently goes.
    EvictLeastRecentlyUsed,
    /// The entry nearest to its expiry goes, of those that `may_evict`.
    EvictSoonestToExpire { may_evict: fn(&V) -> bool },
}

/// A map from byte strings to values that expire by a [`Clock`].
pub(crate) struct Expiring<V> {
    shards: [Mutex<Shard<V>>; SHARDS],
    hasher: RandomState,
    shared: Shared<V>,
}

struct Shared<V> {
    clock: Clock,
    capacity: usize,
    when_full: WhenFull<V>,
    weight: AtomicUsize,
    uses: AtomicU64,
    swept_at: AtomicU64,
}

struct Shard<V> {
    /// Without a hasher: a key is hashed once, which finds its shard and its slot.
    slots: IndexMap<Box<[u8]>, Slot<V>, ()>,
    cursor: usize,
}

/// A key with its hash in one map.
#[derive(Clone, Copy)]
pub(crate) struct Hashed<K> {
    key: K,
    hash: u64,
}

struct Slot<V> {
    value: V,
    expires_us: u64,
    weight: usize,
    used: u64,
}

impl<V> Expiring<V> {
    /// At most `capacity` in weight, in whatever unit the store weighs its entries.
    pub(crate) fn new(clock: Clock, capacity: usize, when_full: WhenFull<V>) -> Self {
        Self {
            shards: array::from_fn(|_| Mutex::new(Shard::default())),
            hasher: RandomState::new(),
            shared: Shared {
                clock,
                capacity,
                when_full,
                weight: AtomicUsize::new(0),
                uses: AtomicU64::new(0),
                swept_at: AtomicU64::new(0),
            },
        }
    }

    /// A key for [`with_all`](Expiring::with_all).
    pub(crate) fn hashed<K: AsRef<[u8]>>(&self, key: K) -> Hashed<K> {
        let hash = self.hasher.hash_one(key.as_ref());
        Hashed { key, hash }
    }

    /// One atomic step over the entry at `key`, which may be vacant.
    pub(crate) fn with<R>(
        &self,
        key: impl AsRef<[u8]>,
        step: impl FnOnce(&mut Entry<'_, V>) -> R,
    ) -> R {
        let key = self.hashed(key.as_ref());
        let mut shard = self.lock(key.shard());
        let now_us = self.shared.clock.now_us();
        self.shared.sweep_some(&mut shard, now_us);
        step(&mut Entry { map: self, shard: &mut shard, key, now_us })
    }

    /// One atomic step over the entries at several keys.
    pub(crate) fn with_all<K, R>(
        &self,
        keys: &[Hashed<K>],
        step: impl FnOnce(&mut Entries<'_, V>) -> R,
    ) -> R {
        let mut wanted = [false; SHARDS];
        keys.iter().for_each(|key| wanted[key.shard()] = true);
        // Locked in the order of their index, so that two callers never wait for each other.
        let mut shards = array::from_fn(|at| wanted[at].then(|| self.lock(at)));
        let now_us = self.shared.clock.now_us();
        for shard in shards.iter_mut().flatten() {
            self.shared.sweep_some(shard, now_us);
        }
        step(&mut Entries { map: self, shards, now_us })
    }

    /// How many entries are held, the expired ones not yet swept among them.
    pub(crate) fn len(&self) -> usize {
        (0..SHARDS).map(|at| self.lock(at).slots.len()).sum()
    }

    fn lock(&self, at: usize) -> MutexGuard<'_, Shard<V>> {
        // A panic inside a step leaves its entry as it was written last; the map itself is whole.
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops everything that has expired, in `held` and in the shards that nobody holds. Not more
    /// often than once a second, or a flood of inserts into a full map would sweep for each.
    fn sweep_all(&self, held: &mut Shard<V>, now_us: u64) {
        let last = self.shared.swept_at.load(Relaxed);
        if now_us.saturating_sub(last) < FULL_SWEEP_EVERY_US {
            return;
        }
        self.shared.swept_at.store(now_us, Relaxed);
        self.shared.sweep_shard(held, now_us);
        for shard in &self.shards {
            if let Ok(mut shard) = shard.try_lock() {
                self.shared.sweep_shard(&mut shard, now_us);
            }
        }
    }

    /// Makes room in the shards that nobody holds, for an entry whose own shard has nothing to evict:
    /// a few large entries may all lie in others.
    fn make_room_elsewhere(&self, key: &[u8], weight: usize, now_us: u64) -> bool {
        let mut shards = self.shards.iter().filter_map(|shard| shard.try_lock().ok());
        shards.any(|mut shard| self.shared.make_room(&mut shard, key, weight, now_us))
    }
}

impl<V> fmt::Debug for Expiring<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expiring")
            .field("entries", &self.len())
            .field("weight", &self.shared.weight.load(Relaxed))
            .field("capacity", &self.shared.capacity)
            .finish()
    }
}

impl<K> Hashed<K> {
    /// By bits that the shard's own table does not choose by.
    fn shard(&self) -> usize {
        (self.hash >> 32) as usize % SHARDS
    }
}

impl<V> Default for Shard<V> {
    fn default() -> Self {
        Self { slots: IndexMap::with_hasher(()), cursor: 0 }
    }
}

impl<V> Shard<V> {
    fn find(&self, key: Hashed<&[u8]>) -> Option<usize> {
        self.slots.raw_entry_v1().index_from_hash(key.hash, |held| **held == *key.key)
    }

    fn insert(&mut self, key: Hashed<&[u8]>, slot: Slot<V>) {
        let raw = self.slots.raw_entry_mut_v1();
        match raw.from_hash(key.hash, |held| **held == *key.key) {
            RawEntryMut::Occupied(mut held) => drop(held.insert(slot)),
            RawEntryMut::Vacant(vacant) => {
                vacant.insert_hashed_nocheck(key.hash, key.key.into(), slot);
            }
        }
    }
}

impl<V> Shared<V> {
    fn sweep_some(&self, shard: &mut Shard<V>, now_us: u64) {
        for _ in 0..SWEPT_PER_VISIT {
            if shard.cursor >= shard.slots.len() {
                shard.cursor = 0;
            }
            match shard.slots.get_index(shard.cursor) {
                Some((_, slot)) if slot.expires_us <= now_us => self.drop_at(shard, shard.cursor),
                Some(_) => shard.cursor += 1,
                None => return,
            }
        }
    }

    fn sweep_shard(&self, shard: &mut Shard<V>, now_us: u64) {
        let mut freed = 0;
        shard.slots.retain(|_, slot| {
            let alive = slot.expires_us > now_us;
            freed += if alive { 0 } else { slot.weight };
            alive
        });
        self.weight.fetch_sub(freed, Relaxed);
    }

    fn drop_at(&self, shard: &mut Shard<V>, at: usize) {
        if let Some((_, slot)) = shard.slots.swap_remove_index(at) {
            self.weight.fetch_sub(slot.weight, Relaxed);
        }
    }

    /// Makes room for `weight` more in this shard, sparing the entry at `key`.
    fn make_room(&self, shard: &mut Shard<V>, key: &[u8], weight: usize, now_us: u64) -> bool {
        if weight > self.capacity {
            return false;
        }
        while self.weight.load(Relaxed) + weight > self.capacity {
            match self.victim(shard, key, now_us) {
                Some(at) => self.drop_at(shard, at),
                None => return false,
            }
        }
        true
    }

    /// The entry to evict: an expired one if the sample has one, else the first by the map's rule.
    fn victim(&self, shard: &Shard<V>, key: &[u8], now_us: u64) -> Option<usize> {
        let len = shard.slots.len();
        let sample = (0..len.min(EVICTION_SAMPLE)).map(|step| (shard.cursor + step) % len);
        sample
            .filter_map(|at| {
                let (name, slot) = shard.slots.get_index(at)?;
                let expired = slot.expires_us <= now_us;
                let rank = match &self.when_full {
                    _ if &**name == key => return None,
                    _ if expired => 0,
                    WhenFull::Refuse { .. } => return None,
                    WhenFull::EvictLeastRecentlyUsed => slot.used,
                    WhenFull::EvictSoonestToExpire { may_evict } => {
                        may_evict(&slot.value).then_some(slot.expires_us)?
                    }
                };
                Some((rank, at))
            })
            .min()
            .map(|(_, at)| at)
    }

    fn full(&self) -> StoreError {
        let what = match self.when_full {
            WhenFull::Refuse { what } => what,
            WhenFull::EvictLeastRecentlyUsed | WhenFull::EvictSoonestToExpire { .. } => "entry",
        };
        StoreError::full(format!(
            "the in-memory store is full (capacity {}) and a new {what} was refused; raise its \
             capacity or use Redis",
            self.capacity
        ))
    }
}

/// Several locked entries.
pub(crate) struct Entries<'a, V> {
    map: &'a Expiring<V>,
    shards: [Option<MutexGuard<'a, Shard<V>>>; SHARDS],
    now_us: u64,
}

impl<V> Entries<'_, V> {
    /// The time of this step.
    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The entry at one of the keys that were locked.
    ///
    /// # Panics
    ///
    /// If `key` lies in a shard that none of the locked keys lies in.
    pub(crate) fn entry<'b, K: AsRef<[u8]>>(&'b mut self, key: &'b Hashed<K>) -> Entry<'b, V> {
        let shard =
            self.shards[key.shard()].as_mut().expect("only keys that were locked are visited");
        let key = Hashed { key: key.key.as_ref(), hash: key.hash };
        Entry { map: self.map, shard, key, now_us: self.now_us }
    }
}

/// One locked entry, vacant or not. An expired one is vacant.
pub(crate) struct Entry<'a, V> {
    map: &'a Expiring<V>,
    shard: &'a mut Shard<V>,
    key: Hashed<&'a [u8]>,
    now_us: u64,
}

impl<V> Entry<'_, V> {
    /// The time of this step, in microseconds since the Unix epoch.
    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The time of this step, in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    /// The value, which counts as a use. One that has expired is dropped, so that it stays gone though
    /// the clock went back.
    pub(crate) fn get(&mut self) -> Option<&mut V> {
        let used = self.map.shared.uses.fetch_add(1, Relaxed);
        let at = self.shard.find(self.key)?;
        if self.shard.slots[at].expires_us <= self.now_us {
            self.map.shared.drop_at(self.shard, at);
            return None;
        }
        let slot = &mut self.shard.slots[at];
        slot.used = used;
        Some(&mut slot.value)
    }

    /// When it expires.
    pub(crate) fn expires_us(&mut self) -> Option<u64> {
        self.slot().map(|slot| slot.expires_us)
    }

    /// How long it lives yet.
    pub(crate) fn ttl_us(&mut self) -> Option<u64> {
        let now_us = self.now_us;
        self.expires_us().map(|at| at - now_us)
    }

    /// Changes when it expires; nothing if it is vacant.
    pub(crate) fn expire_at(&mut self, expires_us: u64) {
        if let Some(slot) = self.slot() {
            slot.expires_us = expires_us;
        }
    }

    /// Changes when it expires and what it weighs; nothing if it is vacant. One that has grown is never
    /// refused: what there is to evict makes room for it.
    pub(crate) fn update(&mut self, expires_us: u64, weight: usize) {
        let weight = weight.max(1);
        let Some(slot) = self.slot() else { return };
        slot.expires_us = expires_us;
        let old = mem::replace(&mut slot.weight, weight);
        if weight == old {
            return;
        }
        if weight > old {
            self.make_room(weight - old);
        }
        self.map.shared.weight.fetch_add(weight, Relaxed);
        self.map.shared.weight.fetch_sub(old, Relaxed);
    }

    /// Puts a value in, in place of any other.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_full`] if there is no room and none can be made. The old value stays.
    pub(crate) fn insert(
        &mut self,
        value: V,
        expires_us: u64,
        weight: usize,
    ) -> Result<(), StoreError> {
        let weight = weight.max(1);
        // One that has expired goes now: a sweep for room would give back its weight a second time.
        let old = match self.shard.find(self.key) {
            Some(at) if self.shard.slots[at].expires_us <= self.now_us => {
                self.map.shared.drop_at(self.shard, at);
                0
            }
            Some(at) => self.shard.slots[at].weight,
            None => 0,
        };
        let more = weight.saturating_sub(old);
        if more > 0 && !self.make_room(more) {
            return Err(self.map.shared.full());
        }
        let used = self.map.shared.uses.fetch_add(1, Relaxed);
        self.shard.insert(self.key, Slot { value, expires_us, weight, used });
        self.map.shared.weight.fetch_add(weight, Relaxed);
        self.map.shared.weight.fetch_sub(old, Relaxed);
        Ok(())
    }

    /// Takes the value out. An expired one is gone already.
    pub(crate) fn remove(&mut self) -> Option<V> {
        let now_us = self.now_us;
        let at = self.shard.find(self.key)?;
        let (_, slot) = self.shard.slots.swap_remove_index(at)?;
        self.map.shared.weight.fetch_sub(slot.weight, Relaxed);
        (slot.expires_us > now_us).then_some(slot.value)
    }

    fn make_room(&mut self, weight: usize) -> bool {
        let shared = &self.map.shared;
        let key = self.key.key;
        shared.make_room(self.shard, key, weight, self.now_us) || {
            self.map.sweep_all(self.shard, self.now_us);
            shared.make_room(self.shard, key, weight, self.now_us)
                || self.map.make_room_elsewhere(key, weight, self.now_us)
        }
    }

    fn slot(&mut self) -> Option<&mut Slot<V>> {
        let now_us = self.now_us;
        let at = self.shard.find(self.key)?;
        let slot = &mut self.shard.slots[at];
        (slot.expires_us > now_us).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread, time::Duration};

    fn map(capacity: usize, when_full: WhenFull<u32>) -> (Clock, Expiring<u32>) {
        let clock = Clock::manual();
        (clock.clone(), Expiring::new(clock, capacity, when_full))
    }

    fn put(map: &Expiring<u32>, key: &str, value: u32, ttl_us: u64) -> Result<(), StoreError> {
        map.with(key, |entry| entry.insert(value, entry.now_us() + ttl_us, 1))
    }

    fn get(map: &Expiring<u32>, key: &str) -> Option<u32> {
        map.with(key, |entry| entry.get().copied())
    }

    #[test]
    fn an_entry_is_gone_at_its_expiry_not_before() {
        let (clock, map) = map(10, WhenFull::Refuse { what: "entry" });
        put(&map, "a", 1, 1_000).unwrap();
        clock.advance(Duration::from_micros(999));
        assert_eq!(get(&map, "a"), Some(1));
        assert_eq!(map.with("a", |entry| entry.ttl_us()), Some(1));
        clock.advance(Duration::from_micros(1));
        assert_eq!(get(&map, "a"), None);
        assert_eq!(map.with("a", |entry| entry.remove()), None);
    }

    #[test]
    fn a_full_map_that_refuses_keeps_what_it_has_and_lets_it_be_replaced() {
        let (_, map) = map(2, WhenFull::Refuse { what: "session" });
        put(&map, "a", 1, 1_000).unwrap();
        put(&map, "b", 2, 1_000).unwrap();
        let error = put(&map, "c", 3, 1_000).unwrap_err();
        assert!(error.is_full() && error.to_string().contains("session"), "{error}");
        put(&map, "a", 9, 1_000).unwrap();
        assert_eq!((get(&map, "a"), get(&map, "b"), get(&map, "c")), (Some(9), Some(2), None));
    }

    #[test]
    fn a_full_map_has_room_again_once_its_entries_have_expired() {
        let (clock, map) = map(100, WhenFull::Refuse { what: "entry" });
        for n in 0..100 {
            put(&map, &n.to_string(), n, 1_000).unwrap();
        }
        clock.advance(Duration::from_secs(2));
        let whole = map.with("new", |entry| entry.insert(1, u64::MAX, 100));
        whole.expect("every expired entry makes room, in whatever shard it lies");
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn the_least_recently_used_entry_of_a_shard_goes_first() {
        let (_, map) = map(3, WhenFull::EvictLeastRecentlyUsed);
        let same_shard = keys_of_one_shard(&map, 4);
        for key in &same_shard[..3] {
            put(&map, key, 1, 1_000).unwrap();
        }
        get(&map, &same_shard[0]);
        put(&map, &same_shard[3], 1, 1_000).unwrap();
        let held: Vec<bool> = same_shard.iter().map(|key| get(&map, key).is_some()).collect();
        assert_eq!(held, [true, false, true, true]);
    }

    #[test]
    fn an_entry_whose_shard_is_empty_evicts_from_another() {
        let (_, map) = map(3, WhenFull::EvictLeastRecentlyUsed);
        for key in keys_of_one_shard(&map, 3) {
            put(&map, &key, 1, 1_000).unwrap();
        }
        let elsewhere = (0..).map(|n: u32| n.to_string()).find(|key| map.hashed(key).shard() != 0);
        put(&map, &elsewhere.unwrap(), 1, 1_000).unwrap();
        assert_eq!(map.len(), 3);
    }

    #[test]
    fn the_soonest_to_expire_goes_first_but_never_one_that_must_stay() {
        let keep_odd = WhenFull::EvictSoonestToExpire { may_evict: |value| value % 2 == 0 };
        let (_, map) = map(3, keep_odd);
        let keys = keys_of_one_shard(&map, 4);
        put(&map, &keys[0], 1, 10).unwrap();
        put(&map, &keys[1], 2, 30).unwrap();
        put(&map, &keys[2], 4, 20).unwrap();
        put(&map, &keys[3], 6, 40).unwrap();
        let held: Vec<bool> = keys.iter().map(|key| get(&map, key).is_some()).collect();
        assert_eq!(held, [true, true, false, true]);
    }

    #[test]
    fn an_expired_entry_that_is_replaced_by_a_heavier_one_in_a_full_map_weighs_nothing_twice() {
        let (clock, map) = map(100, WhenFull::Refuse { what: "entry" });
        let keys = keys_of_one_shard(&map, 60);
        let put = |key: &str, ttl_us: u64, weight: usize| {
            map.with(key, |entry| entry.insert(1, entry.now_us() + ttl_us, weight))
        };
        for key in &keys[..59] {
            put(key, u64::MAX / 2, 1).unwrap();
        }
        put(&keys[59], 1, 41).unwrap();
        clock.advance(Duration::from_secs(2));
        // The visit itself sweeps no further than two of those that are not gone.
        map.lock(0).cursor = 0;
        assert!(put(&keys[59], 1_000, 42).unwrap_err().is_full());
        put(&keys[59], 1_000, 41).unwrap();
        assert_eq!(map.shared.weight.load(Relaxed), 100);
    }

    #[test]
    fn expired_entries_are_swept_by_visits_to_others() {
        let (clock, map) = map(usize::MAX, WhenFull::Refuse { what: "entry" });
        for n in 0..10_000 {
            put(&map, &format!("old{n}"), n, 1_000).unwrap();
        }
        clock.advance(Duration::from_secs(1));
        for n in 0..10_000 {
            put(&map, &format!("new{n}"), n, 1_000_000).unwrap();
        }
        assert!(map.len() < 10_500, "{} entries are held", map.len());
    }

    #[test]
    fn steps_over_several_keys_are_atomic_and_never_deadlock() {
        let clock = Clock::system();
        let map = Arc::new(Expiring::new(clock, 100, WhenFull::Refuse { what: "entry" }));
        let names = ["a", "b", "c", "d"];
        let workers: Vec<_> = (0..4)
            .map(|start| {
                let map = map.clone();
                thread::spawn(move || {
                    let mut keys = names.map(|name| map.hashed(name));
                    keys.rotate_left(start);
                    for _ in 0..2_000 {
                        map.with_all(&keys, |entries| {
                            for key in &keys {
                                let mut entry = entries.entry(key);
                                let value = entry.get().copied().unwrap_or(0u32);
                                entry.insert(value + 1, u64::MAX, 1).unwrap();
                            }
                        });
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        for key in names {
            assert_eq!(map.with(key, |entry| entry.get().copied()), Some(8_000));
        }
    }

    fn keys_of_one_shard(map: &Expiring<u32>, count: usize) -> Vec<String> {
        let keys = (0..).map(|n: u32| n.to_string());
        keys.filter(|key| map.hashed(key).shard() == 0).take(count).collect()
    }
}
