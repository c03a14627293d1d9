//! What is kept of users in Redis: a sorted set of their sessions, and a list of what they did.

use crate::{
    connection::{Script, parse, redis},
    marks::UserId,
    session::{
        policy,
        redis::RedisStore,
        token::Selector,
        user_store::{MOST_LISTED, Trail, UserStore},
    },
    store::{StoreError, StoreFuture},
};
use bytes::Bytes;
use redis::{Cmd, Value};
use std::time::Duration;

pub(crate) static ENLIST: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("enlist.lua")))
        .named("session enlist");
pub(crate) static UNLIST: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("unlist.lua")))
        .named("session unlist");

impl RedisStore {
    fn sessions_of(&self, user: &UserId) -> String {
        self.redis.keys.key("user", user.as_str())
    }

    fn trail_of(&self, user: &UserId) -> String {
        self.redis.keys.key("activity", user.as_str())
    }
}

impl UserStore for RedisStore {
    fn enlist(&self, user: &UserId, selector: &Selector, idle: Duration) -> StoreFuture<usize> {
        let call = ENLIST
            .keys([self.sessions_of(user)])
            .arg(self.redis.now_ms())
            .arg(selector.to_string())
            .arg(policy::list_ttl_ms(idle));
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move { parse(reply.await?, "session enlist") })
    }

    fn unlist(&self, user: &UserId, selectors: &[Selector], spared: Duration) -> StoreFuture<()> {
        let call = UNLIST
            .keys([self.sessions_of(user)])
            .arg(self.redis.now_ms())
            .arg(policy::optional_ms(spared))
            .args(selectors.iter().map(Selector::to_string));
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move { reply.await.map(drop) })
    }

    fn listed(&self, user: &UserId) -> StoreFuture<Vec<(Selector, Duration)>> {
        let mut zrange = redis::cmd("ZRANGE");
        zrange.arg(self.sessions_of(user)).arg(0).arg(MOST_LISTED - 1).arg("REV").arg("WITHSCORES");
        let replies = self.redis.batch().cmd(zrange).run(self.redis.deadline);
        StoreFuture::boxed(async move {
            let members: Vec<(String, f64)> = parse(only(replies.await?)?, "ZRANGE")?;
            // What something else has put there is no session.
            let sessions = members.into_iter().filter_map(|(selector, seen_ms)| {
                Some((selector.parse().ok()?, Duration::from_millis(seen_ms.max(0.0) as u64)))
            });
            Ok(sessions.collect())
        })
    }

    /// Native commands in one round trip. Whoever reads between them sees one event too many.
    fn append(&self, user: &UserId, events: Vec<Bytes>, trail: Trail) -> StoreFuture<()> {
        let key = self.trail_of(user);
        let command = |name: &str| -> Cmd {
            let mut command = redis::cmd(name);
            command.arg(&key);
            command
        };
        let (mut lpush, mut ltrim, mut pexpire) =
            (command("LPUSH"), command("LTRIM"), command("PEXPIRE"));
        for event in &events {
            lpush.arg(&event[..]);
        }
        ltrim.arg(0).arg(trail.events as i64 - 1);
        pexpire.arg(policy::whole_ms(trail.ttl));
        let batch = self.redis.batch().cmd(lpush).cmd(ltrim).cmd(pexpire);
        let replies = batch.run(self.redis.deadline);
        StoreFuture::boxed(async move {
            replies.await?.into_iter().try_for_each(|reply| reply.map(drop))
        })
    }

    fn recent(&self, user: &UserId, count: usize) -> StoreFuture<Vec<Bytes>> {
        let mut lrange = redis::cmd("LRANGE");
        lrange.arg(self.trail_of(user)).arg(0).arg(i64::try_from(count).unwrap_or(i64::MAX) - 1);
        if count == 0 {
            return StoreFuture::ready(Ok(Vec::new()));
        }
        let replies = self.redis.batch().cmd(lrange).run(self.redis.deadline);
        StoreFuture::boxed(async move {
            let events: Vec<Vec<u8>> = parse(only(replies.await?)?, "LRANGE")?;
            Ok(events.into_iter().map(Bytes::from).collect())
        })
    }
}

fn only(replies: Vec<Result<Value, StoreError>>) -> Result<Value, StoreError> {
    replies.into_iter().next().unwrap_or(Ok(Value::Nil))
}
