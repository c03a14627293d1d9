//! Sessions in Redis: a hash for each, its data under their own names.

use crate::{
    connection::{Connection, RedisContext, Script, parse, redis},
    marks::UserId,
    session::{
        policy,
        store::{
            Absolute, Change, Committed, Created, Delta, Destroyed, Fields, Limit, Limits,
            NewSession, Record, SessionStore,
        },
        token::{Selector, VerifierHash},
    },
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use bytes::Bytes;
use redis::{FromRedisValue, Value};
use std::{collections::HashMap, time::Duration, vec};

static CREATE: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("create.lua")))
        .named("session create");
static COMMIT: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("commit.lua")))
        .named("session commit");
static DESTROY: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("destroy.lua")))
        .named("session destroy");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] = &[&CREATE, &COMMIT, &DESTROY];

/// Keeps sessions in Redis or Valkey, for any number of processes. A cheap clone.
///
/// A session is the hash `<prefix>:session:<selector>`. Its data are fields of JSON under their own
/// names, which other languages read with `HGET`; the fields whose name starts with a dot are this
/// crate's own. The life of the key is the life of the session.
#[derive(Clone, Debug)]
pub struct RedisStore {
    redis: RedisContext,
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

    fn create(&self, selector: &Selector, new: NewSession, limits: Limits) -> StoreFuture<Created> {
        let absolute = new.absolute.map(policy::whole_ms);
        let mut call = CREATE
            .keys([self.key(selector)])
            .arg(self.redis.now_ms())
            .arg(new.verifier.encode())
            .arg(new.user.as_ref().map_or("", UserId::as_str))
            .arg(policy::whole_ms(new.idle))
            .arg(optional(absolute))
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
            .arg(limits.fields)
            .arg(limits.bytes)
            .arg(if delta.clear { "1" } else { "" });
        let count = |kind: fn(&Change) -> bool| delta.changes.values().filter(|c| kind(c)).count();
        call = call.arg(count(|change| matches!(change, Change::Set(_))));
        for (name, change) in &delta.changes {
            if let Change::Set(value) = change {
                call = call.arg(&**name).arg(&**value);
            }
        }
        call = call.arg(count(|change| matches!(change, Change::Remove)));
        for (name, change) in &delta.changes {
            if let Change::Remove = change {
                call = call.arg(&**name);
            }
        }
        call = call.arg(count(|change| matches!(change, Change::Increment(_))));
        for (name, change) in &delta.changes {
            if let Change::Increment(by) = change {
                call = call.arg(&**name).arg(*by);
            }
        }
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move {
            let mut reply = Reply::new(reply.await?)?;
            match reply.next()? {
                1 => {
                    let ttl = Duration::from_millis(reply.next()?);
                    Ok(Committed::Done { ttl, sums: reply.rest()? })
                }
                0 => Ok(Committed::Gone),
                -1 => Ok(Committed::TooLarge(reply.limit()?)),
                -2 => Ok(Committed::NotAnInteger(reply.next::<String>()?.into())),
                -3 => Ok(Committed::OtherUser),
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
        let call = DESTROY
            .keys([self.key(selector)])
            .arg(presented.encode())
            .arg(user.map_or("", UserId::as_str));
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move {
            let mut reply = Reply::new(reply.await?)?;
            match reply.next()? {
                1 => Ok(Destroyed::Done { user: user_id(&reply.next::<String>()?) }),
                0 => Ok(Destroyed::Nothing),
                other => Err(unknown(other)),
            }
        })
    }

    fn tasks(&self) -> Tasks {
        self.redis.context.tasks.clone()
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

fn user_id(stored: &str) -> Option<UserId> {
    (!stored.is_empty()).then(|| UserId::new(stored))
}

/// What a hash and its time to live say. A key that expires between the two commands is gone.
///
/// `now_ms` is this process's clock. It decides nothing but whether a slide is worth its write; if it
/// is wrong, slides near the absolute deadline come too often or not at all.
fn record(
    mut hash: HashMap<Vec<u8>, Vec<u8>>,
    pttl: i64,
    now_ms: u64,
) -> Result<Option<Record>, StoreError> {
    let verifier = hash.remove(b".v".as_slice()).and_then(|hash| VerifierHash::decode(&hash));
    let (Some(verifier), true) = (verifier, pttl != -2) else { return Ok(None) };
    let mut text = |name: &str| {
        let value = hash.remove(name.as_bytes()).map(String::from_utf8);
        value.and_then(Result::ok).unwrap_or_default()
    };
    let user = user_id(&text(".u"));
    let mut number = |name| {
        let digits = text(name);
        digits.parse::<u64>().map_err(|_| {
            StoreError::corrupt(format!(
                "the field {name} of a session is {digits:?} instead of milliseconds; something \
                 else has written to it"
            ))
        })
    };
    let (created_ms, idle_ms, deadline_ms) = (number(".c")?, number(".i")?, number(".x")?);
    let fields = hash.into_iter().filter_map(|(name, value)| {
        // A name that is no text cannot be asked for.
        let name = String::from_utf8(name).ok().filter(|name| !name.starts_with('.'))?;
        Some((name.into(), Bytes::from(value)))
    });
    let idle = Duration::from_millis(idle_ms);
    let mut record = Record::new(verifier, idle, fields.collect::<Fields>());
    record.user = user;
    record.created = Duration::from_millis(created_ms);
    record.ttl = u64::try_from(pttl).ok().map(Duration::from_millis);
    record.longest_ttl = Duration::from_millis(policy::ttl_ms(idle_ms, deadline_ms, now_ms));
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::token::Token;

    fn hash(verifier: &str) -> HashMap<Vec<u8>, Vec<u8>> {
        [
            (".v", verifier),
            (".c", "1000"),
            (".i", "100"),
            (".x", "1150"),
            (".u", ""),
            (".b", "5"),
            (".later", "?"),
            ("cart", "[]"),
        ]
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
    }

    #[test]
    fn a_hash_reads_as_a_session_and_its_own_fields_stay_out_of_the_data() {
        let verifier = Token::random().hash();
        let mut hash = hash(&verifier.encode());
        hash.insert(vec![0xff], b"not text".into());
        let record = record(hash, 80, 1_100).unwrap().unwrap();
        assert_eq!(record.verifier, verifier);
        assert_eq!(record.user, None);
        assert_eq!(record.ttl, Some(Duration::from_millis(80)));
        assert_eq!(record.longest_ttl, Duration::from_millis(50));
        assert_eq!(record.fields.keys().map(|name| &**name).collect::<Vec<_>>(), ["cart"]);
    }

    #[test]
    fn what_has_no_proof_or_has_just_expired_is_no_session() {
        let verifier = Token::random().hash().encode();
        assert!(record(hash(&verifier), -2, 0).unwrap().is_none());
        assert!(record(hash("damaged"), 80, 0).unwrap().is_none());
        assert!(record(HashMap::new(), -2, 0).unwrap().is_none());
        assert_eq!(record(hash(&verifier), -1, 0).unwrap().unwrap().ttl, None);
    }

    #[test]
    fn a_session_that_something_else_has_damaged_is_named_and_not_guessed_at() {
        let mut hash = hash(&Token::random().hash().encode());
        hash.insert(b".i".into(), b"soon".into());
        let error = record(hash, 80, 0).unwrap_err();
        assert!(error.is_corrupt() && error.to_string().contains(".i"), "{error}");
    }
}
