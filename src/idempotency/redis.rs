//! Idempotency records in Redis or Valkey.

use crate::{
    connection::{Call, Connection, RedisContext, Script, parse},
    idempotency::store::{
        Begun, Claim, Completed, Fingerprint, IdempotencyStore, Look, Orphan, Settled, Standing,
        Terms, unknown_version,
    },
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use bytes::Bytes;
use redis::FromRedisValue;
use std::{fmt, str::FromStr, time::Duration};

const KIND: &str = "idempotency";

static BEGIN: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("begin.lua")))
        .named("idempotency begin");

static RENEW: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("renew.lua")))
        .named("idempotency renew");

static COMPLETE: Script = Script::new(include_str!("complete.lua")).named("idempotency complete");

static ABANDON: Script = Script::new(include_str!("abandon.lua")).named("idempotency abandon");

static LOOK: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("look.lua")))
        .named("idempotency look");

static FORGET: Script = Script::new(include_str!("forget.lua")).named("idempotency forget");

static SETTLE: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("settle.lua")))
        .named("idempotency settle");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] =
    &[&BEGIN, &RENEW, &COMPLETE, &ABANDON, &LOOK, &FORGET, &SETTLE];

/// Idempotency records in Redis or Valkey, shared by every server of a fleet.
///
/// A record is one hash, `<prefix>:idempotency:{<id>}`, and a counter beside it, whose name ends in
/// `:f`. Each step is one script, in one round trip. Whose lease has ended is decided by the
/// server's own clock.
///
/// The server must not evict: with a `maxmemory-policy` that does, a record may go early and its
/// request run twice.
#[derive(Clone)]
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

    fn record(&self, id: &str) -> String {
        self.redis.keys.tagged(KIND, id, "")
    }

    fn fence(&self, claim: &Claim) -> String {
        self.redis.keys.tagged(KIND, claim.id(), ":f")
    }

    fn channel(&self, id: &str) -> String {
        self.redis.keys.tagged(KIND, id, ":end")
    }

    fn run<R: FromRedisValue, T>(
        &self,
        call: Call,
        read: impl FnOnce(R) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<T> {
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move { read(parse(reply.await?, KIND)?) })
    }
}

impl IdempotencyStore for RedisStore {
    fn begin(&self, claim: &Claim, fingerprint: &Fingerprint, terms: Terms) -> StoreFuture<Begun> {
        let on_orphan = match terms.on_orphan {
            Orphan::Retry => "retry",
            Orphan::Reject => "reject",
        };
        let call = BEGIN
            .keys([self.record(claim.id()), self.fence(claim)])
            .arg(claim.token())
            .arg(fingerprint.as_bytes())
            .arg(terms.lease_us())
            .arg(terms.pending_ms())
            .arg(on_orphan)
            .arg(self.redis.now_us());
        self.run(call, begun)
    }

    fn renew(&self, claim: &Claim, terms: Terms) -> StoreFuture<bool> {
        let call = RENEW
            .keys([self.record(claim.id())])
            .arg(claim.token())
            .arg(terms.lease_us())
            .arg(terms.pending_ms())
            .arg(self.redis.now_us());
        self.run(call, Ok)
    }

    fn complete(&self, claim: &Claim, outcome: Bytes, terms: Terms) -> StoreFuture<Completed> {
        let call = COMPLETE
            .keys([self.record(claim.id())])
            .arg(claim.token())
            .arg(&outcome[..])
            .arg(terms.retain_ms())
            .arg(self.channel(claim.id()));
        self.run(call, |answer: String| match answer.as_str() {
            "stored" => Ok(Completed::Stored),
            "already" => Ok(Completed::Already),
            "lost" => Ok(Completed::Lost),
            other => Err(unexpected(other.as_bytes())),
        })
    }

    fn abandon(&self, claim: &Claim) -> StoreFuture<bool> {
        let call = ABANDON
            .keys([self.record(claim.id())])
            .arg(claim.token())
            .arg(self.channel(claim.id()));
        self.run(call, Ok)
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        Some(self.redis.context.hints.subscribe(&self.channel(id)))
    }

    fn look(&self, id: &str, with_outcome: bool) -> StoreFuture<Option<Look>> {
        let with_outcome = if with_outcome { "1" } else { "" };
        let call = LOOK.keys([self.record(id)]).arg(with_outcome).arg(self.redis.now_us());
        self.run(call, move |answer| look(answer, !with_outcome.is_empty()))
    }

    fn forget(&self, id: &str) -> StoreFuture<bool> {
        self.run(FORGET.keys([self.record(id)]).arg(self.channel(id)), Ok)
    }

    fn settle(&self, id: &str, outcome: Bytes, terms: Terms) -> StoreFuture<Settled> {
        let call = SETTLE
            .keys([self.record(id)])
            .arg(&outcome[..])
            .arg(terms.retain_ms())
            .arg(self.channel(id))
            .arg(self.redis.now_us());
        self.run(call, settled)
    }

    fn tasks(&self) -> Tasks {
        self.redis.context.tasks.clone()
    }
}

fn begun(mut answer: Vec<Vec<u8>>) -> Result<Begun, StoreError> {
    let Some((verdict, rest)) = answer.split_first_mut() else { return Err(not_ours(&answer)) };
    match (&verdict[..], rest) {
        (b"acquired", [fence, attempts]) => {
            Ok(Begun::Acquired { fence: number(fence)?, attempts: number(attempts)? })
        }
        (b"replay", [outcome]) => Ok(Begun::Replay(std::mem::take(outcome).into())),
        (b"busy", [left_us]) => Ok(Begun::Busy { left: Duration::from_micros(number(left_us)?) }),
        (b"mismatch", []) => Ok(Begun::Mismatch),
        (b"orphan", [attempts]) => Ok(Begun::Orphan { attempts: number(attempts)? }),
        _ => Err(not_ours(&answer)),
    }
}

fn look(answer: Vec<Vec<u8>>, with_outcome: bool) -> Result<Option<Look>, StoreError> {
    let [state, fence, attempts, lease, age, left, outcome] = match <[_; 7]>::try_from(answer) {
        Ok(parts) => parts,
        Err(parts) if parts.is_empty() => return Ok(None),
        Err(parts) => return Err(not_ours(&parts)),
    };
    let us = |text: &[u8]| Ok::<_, StoreError>(Duration::from_micros(number(text)?));
    let state = match &state[..] {
        b"C" => Standing::Complete,
        b"P" if &lease[..] == b"0" => Standing::Orphan,
        b"P" => Standing::Running { left: us(&lease)? },
        other => return Err(unexpected(other)),
    };
    let left = Duration::from_millis(number(&left)?);
    let outcome = (with_outcome && state == Standing::Complete).then(|| outcome.into());
    let look = Look::new(state, number(&fence)?, number(&attempts)?, us(&age)?, left);
    Ok(Some(look.outcome(outcome)))
}

fn settled(answer: Vec<Vec<u8>>) -> Result<Settled, StoreError> {
    match answer.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [b"settled"] => Ok(Settled::Settled),
        [b"running", left] => Ok(Settled::Running { left: Duration::from_micros(number(left)?) }),
        [b"complete"] => Ok(Settled::Complete),
        [b"absent"] => Ok(Settled::Absent),
        _ => Err(not_ours(&answer)),
    }
}

/// An answer that only tells the version of a record, or none of a script's.
fn not_ours(answer: &[Vec<u8>]) -> StoreError {
    match answer {
        [verdict, found] if verdict == b"version" => {
            unknown_version(&String::from_utf8_lossy(found))
        }
        [verdict, ..] => unexpected(verdict),
        [] => unexpected(b""),
    }
}

fn number<T: FromStr>(text: &[u8]) -> Result<T, StoreError> {
    str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| unexpected(text))
}

fn unexpected(answer: &[u8]) -> StoreError {
    let answer = String::from_utf8_lossy(&answer[..answer.len().min(64)]);
    StoreError::corrupt(format!("an idempotency script answered {answer:?}"))
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("idempotency::RedisStore")
            .field("prefix", &self.redis.keys.prefix())
            .field("deadline", &self.redis.deadline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(parts: &[&str]) -> Result<Begun, StoreError> {
        begun(parts.iter().map(|part| part.as_bytes().to_vec()).collect())
    }

    #[test]
    fn every_answer_of_begin_is_read() {
        let acquired = Begun::Acquired { fence: 1_760_000_000_000_123, attempts: 2 };
        assert_eq!(answer(&["acquired", "1760000000000123", "2"]).unwrap(), acquired);
        assert_eq!(answer(&["replay", "blob"]).unwrap(), Begun::Replay("blob".into()));
        let busy = Begun::Busy { left: Duration::from_micros(9) };
        assert_eq!(answer(&["busy", "9"]).unwrap(), busy);
        assert_eq!(answer(&["mismatch"]).unwrap(), Begun::Mismatch);
        assert_eq!(answer(&["orphan", "3"]).unwrap(), Begun::Orphan { attempts: 3 });
    }

    #[test]
    fn an_answer_that_is_not_understood_is_an_error_not_a_permission_to_run() {
        for parts in [&["version", "2"][..], &["acquired"], &["acquired", "1.7e+15", "1"], &[]] {
            assert!(answer(parts).unwrap_err().is_corrupt(), "{parts:?}");
        }
    }
}
