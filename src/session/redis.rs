//! Sessions in Redis: a hash for each, its data under their own names.

use crate::{
    clock::Clock,
    connection::{Connection, RedisContext, Script, parse, redis},
    marks::UserId,
    session::{
        policy,
        redis_record::{record, user_id},
        redis_users,
        store::{
            Absolute, Change, Committed, Created, Delta, Destroyed, Limit, Limits, NewSession,
            Note, Record, SessionStore, Swap, Swapped,
        },
        token::{Selector, VerifierHash},
    },
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use bytes::Bytes;
use redis::{FromRedisValue, Value};
use std::{time::Duration, vec};

/// A script after what it shares with the others on a session.
macro_rules! script {
    ($($part:literal),+) => {
        Script::new(concat!(
            include_str!("../connection/prelude.lua"),
            include_str!("shared.lua"),
            $(include_str!($part)),+
        ))
    };
}

static CREATE: Script = script!("create.lua").named("session create");
static COMMIT: Script = script!("delta.lua", "commit.lua").named("session commit");
static SWAP: Script = script!("swap.lua").named("session swap");
static DESTROY: Script = script!("destroy.lua").named("session destroy");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] =
    &[&CREATE, &COMMIT, &SWAP, &DESTROY, &redis_users::ENLIST, &redis_users::UNLIST];

/// Keeps sessions in Redis or Valkey, for any number of processes. A cheap clone.
///
/// A session is the hash `<prefix>:session:<selector>`. Its data are fields of JSON under their own
/// names, which other languages read with `HGET`; the fields whose name starts with a dot are this
/// crate's own. The life of the key is the life of the session.
#[derive(Clone, Debug)]
pub struct RedisStore {
    pub(crate) redis: RedisContext,
}

impl RedisStore {
    /// Over a connection of the application's own, under a prefix that begins every key. A
    /// [`Backend`](crate::Backend) makes all stores at once, and waits for their tasks when it is shut
    /// down.
    ///
    /// # Errors
    ///
    /// If the prefix is not 1 to 64 characters of `A-Z a-z 0-9 - _ . : /`.
    pub fn new(connection: Connection, prefix: &str) -> Result<Self, StoreError> {
        RedisContext::alone(connection, prefix).map(Self::over)
    }

    pub(crate) fn over(redis: RedisContext) -> Self {
        Self { redis }
    }

    fn key(&self, selector: &Selector) -> String {
        self.redis.keys.key("session", &selector.to_string())
    }

    fn end(&self, selector: &Selector, presented: &str, user: &str) -> StoreFuture<Destroyed> {
        let reply = self.redis.script(DESTROY.keys([self.key(selector)]).arg(presented).arg(user));
        StoreFuture::boxed(async move {
            let mut reply = Reply::new(reply.await?)?;
            match reply.next()? {
                1 => Ok(Destroyed::Done { user: user_id(&reply.next::<String>()?) }),
                0 => Ok(Destroyed::Nothing),
                other => Err(unknown(other)),
            }
        })
    }
}

impl SessionStore for RedisStore {
    /// One pipeline of native commands: a script would cost the server ten times as much.
    fn load(&self, selector: &Selector) -> StoreFuture<Option<Record>> {
        let key = self.key(selector);
        let (mut hgetall, mut pttl) = (redis::cmd("HGETALL"), redis::cmd("PTTL"));
        hgetall.arg(&key);
        pttl.arg(&key);
        let replies = self.redis.batch().cmd(hgetall).cmd(pttl).run(self.redis.deadline);
        let clock = self.redis.context.clock.clone();
        StoreFuture::boxed(async move {
            let mut replies = replies.await?.into_iter();
            let mut reply = || replies.next().unwrap_or(Ok(Value::Nil));
            record(parse(reply()?, "HGETALL")?, parse(reply()?, "PTTL")?, clock.now_ms())
        })
    }

    fn load_field(&self, selector: &Selector, field: &str) -> StoreFuture<Option<Record>> {
        const NAMES: [&str; 5] = [".v", ".i", ".x", ".p", ".m"];
        let key = self.key(selector);
        let (mut hmget, mut pttl) = (redis::cmd("HMGET"), redis::cmd("PTTL"));
        hmget.arg(&key).arg(&NAMES).arg(field);
        pttl.arg(&key);
        let replies = self.redis.batch().cmd(hmget).cmd(pttl).run(self.redis.deadline);
        let clock = self.redis.context.clock.clone();
        let names = NAMES.into_iter().chain([field]).map(Vec::from).collect::<Vec<_>>();
        StoreFuture::boxed(async move {
            let mut replies = replies.await?.into_iter();
            let mut reply = || replies.next().unwrap_or(Ok(Value::Nil));
            let values: Vec<Option<Vec<u8>>> = parse(reply()?, "HMGET")?;
            let held =
                names.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?)));
            let created = (b".c".to_vec(), b"0".to_vec());
            record(held.chain([created]).collect(), parse(reply()?, "PTTL")?, clock.now_ms())
        })
    }

    fn create(&self, selector: &Selector, new: NewSession, limits: Limits) -> StoreFuture<Created> {
        let absolute = new.absolute.map(policy::whole_ms);
        let mut call = CREATE
            .keys([self.key(selector)])
            .arg(self.redis.now_ms())
            .arg(new.verifier.encode())
            .arg(new.user.as_ref().map_or("", UserId::as_str))
            .arg(policy::whole_ms(new.idle))
            .arg(optional(absolute))
            .arg(if new.persistent { "1" } else { "" })
            .arg(new.device.as_deref().unwrap_or_default())
            .arg(limits.fields)
            .arg(limits.bytes);
        for (name, value) in &new.fields {
            call = call.arg(&**name).arg(&**value);
        }
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move {
            let mut reply = Reply::new(reply.await?)?;
            match reply.next()? {
                1 => Ok(Created::Done { ttl: Duration::from_millis(reply.next()?) }),
                0 => Ok(Created::Taken),
                -1 => Ok(Created::TooLarge(reply.limit()?)),
                other => Err(unknown(other)),
            }
        })
    }

    fn commit(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        delta: Delta,
        limits: Limits,
    ) -> StoreFuture<Committed> {
        let absolute = match delta.absolute {
            Absolute::Keep => String::new(),
            Absolute::Never => "never".to_owned(),
            Absolute::In(life) => policy::whole_ms(life).to_string(),
        };
        let mut call = COMMIT
            .keys([self.key(selector)])
            .arg(self.redis.now_ms())
            .arg(presented.encode())
            .arg(delta.verifier.map_or_else(String::new, |hash| hash.encode()))
            .arg(delta.user.as_ref().map_or("", UserId::as_str))
            .arg(optional(delta.idle.map(policy::whole_ms)))
            .arg(absolute)
            .arg(delta.persistent.map_or("", |persistent| if persistent { "1" } else { "0" }))
            .arg(delta.device.as_deref().unwrap_or_default())
            .arg(limits.fields)
            .arg(limits.bytes)
            .arg(if delta.clear { "1" } else { "" });
        let (mut sets, mut removes, mut increments) = (Vec::new(), Vec::new(), Vec::new());
        for (name, change) in &delta.changes {
            match change {
                Change::Set(value) => sets.push((name, value.clone())),
                Change::Remove => removes.push((name, Bytes::new())),
                Change::RemoveIf(value) => removes.push((name, value.clone())),
                Change::Increment(by) => increments.push((name, policy::text(*by))),
            }
        }
        for list in [sets, removes, increments] {
            call = call.arg(list.len());
            for (name, value) in list {
                call = call.arg(&**name).arg(&*value);
            }
        }
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move {
            let mut reply = Reply::new(reply.await?)?;
            match reply.next()? {
                1 => {
                    let ttl = Duration::from_millis(reply.next()?);
                    let persistent = reply.next::<u8>()? == 1;
                    let note = reply.note()?;
                    Ok(Committed::Done { ttl, persistent, note, sums: reply.rest()? })
                }
                0 => Ok(Committed::Gone),
                -1 => Ok(Committed::TooLarge(reply.limit()?)),
                -2 => Ok(Committed::NotAnInteger(reply.next::<String>()?.into())),
                -3 => Ok(Committed::OtherUser),
                -4 => Ok(Committed::Rotated),
                other => Err(unknown(other)),
            }
        })
    }

    fn swap(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        swap: Swap,
        limits: Limits,
    ) -> StoreFuture<Swapped> {
        let call = SWAP
            .keys([self.key(selector)])
            .arg(self.redis.now_ms())
            .arg(presented.encode())
            .arg(&*swap.field)
            .arg(swap.seen.as_deref().unwrap_or_default())
            .arg(&*swap.value)
            .arg(limits.fields)
            .arg(limits.bytes);
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move {
            let mut reply = Reply::new(reply.await?)?;
            match reply.next()? {
                1 => {
                    let ttl = Duration::from_millis(reply.next()?);
                    Ok(Swapped::Done { ttl, note: reply.note()? })
                }
                2 => {
                    let value = Bytes::from(reply.next::<Vec<u8>>()?);
                    Ok(Swapped::Changed((!value.is_empty()).then_some(value)))
                }
                0 => Ok(Swapped::Gone),
                -1 => Ok(Swapped::TooLarge(reply.limit()?)),
                -4 => Ok(Swapped::Rotated),
                other => Err(unknown(other)),
            }
        })
    }

    fn destroy(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        user: Option<&UserId>,
    ) -> StoreFuture<Destroyed> {
        self.end(selector, &presented.encode(), user.map_or("", UserId::as_str))
    }

    fn revoke(&self, selector: &Selector, user: &UserId) -> StoreFuture<Destroyed> {
        self.end(selector, "", user.as_str())
    }

    fn tasks(&self) -> Tasks {
        self.redis.context.tasks.clone()
    }

    fn clock(&self) -> Clock {
        self.redis.context.clock.clone()
    }
}

/// The elements of a script's reply, in their order.
struct Reply(vec::IntoIter<Value>);

const REPLY: &str = "a session script";

impl Reply {
    fn new(value: Value) -> Result<Self, StoreError> {
        Ok(Self(parse::<Vec<Value>>(value, REPLY)?.into_iter()))
    }

    fn next<T: FromRedisValue>(&mut self) -> Result<T, StoreError> {
        parse(self.0.next().unwrap_or(Value::Nil), REPLY)
    }

    fn rest<T: FromRedisValue>(self) -> Result<Vec<T>, StoreError> {
        self.0.map(|value| parse(value, REPLY)).collect()
    }

    fn note(&mut self) -> Result<Option<Note>, StoreError> {
        let idle = Duration::from_millis(self.next()?);
        Ok(user_id(&self.next::<String>()?).map(|user| Note { user, idle }))
    }

    fn limit(&mut self) -> Result<Limit, StoreError> {
        Ok(if self.next::<String>()? == "fields" { Limit::Fields } else { Limit::Bytes })
    }
}

fn unknown(code: i64) -> StoreError {
    StoreError::corrupt(format!("{REPLY} answered with the unknown code {code}"))
}

fn optional(number: Option<u64>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}
