//! What may become of a session: the rules that the scripts spell in Lua, and that the memory store
//! goes by. No I/O, and no clock of its own.

use crate::{
    marks::UserId,
    session::{
        store::{Absolute, Change, Delta, Fields, Limit, Limits, NewSession, Note, Record, Swap},
        token::VerifierHash,
    },
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// The largest integer that is exact in JSON, in Lua and in JavaScript: 2⁵³ − 1.
pub(crate) const MAX_INTEGER: i64 = (1 << 53) - 1;

/// How long after a rotation the proof before it is known, in which no new session takes the place of
/// the one whose new cookie is on its way.
const GRACE_MS: u64 = 60_000;

/// How long a session must not have been noted in its user's list before it is struck off as missing:
/// it is noted before it is bound.
pub(crate) const SPARED: Duration = Duration::from_secs(60);

/// A session that does not slide any more is noted in its user's list this often.
const NOTED_EVERY: Duration = Duration::from_secs(60);

/// How long a user's list outlives the last time that a session in it was noted: more than the session
/// does, since it lives its idle timeout from its last use, and is noted a twentieth of it late at most.
pub(crate) fn list_ttl_ms(idle: Duration) -> u64 {
    whole_ms(idle.saturating_mul(2))
}

/// A session as a store keeps it.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) verifier: VerifierHash,
    pub(crate) user: Option<UserId>,
    pub(crate) created_ms: u64,
    pub(crate) idle_ms: u64,
    /// 0 if it has none.
    pub(crate) deadline_ms: u64,
    pub(crate) persistent: bool,
    pub(crate) device: Option<Bytes>,
    /// What proved it before, and until when.
    pub(crate) previous: Option<(VerifierHash, u64)>,
    /// When it was last noted in its user's list.
    pub(crate) noted_ms: u64,
    pub(crate) bytes: usize,
    pub(crate) fields: Arc<Fields>,
}

/// What a commit writes.
pub(crate) struct Write {
    pub(crate) stored: Stored,
    pub(crate) ttl_ms: u64,
    pub(crate) sums: Vec<i64>,
    pub(crate) note: Option<Note>,
}

/// Why a commit writes nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Gone,
    Rotated,
    OtherUser,
    NotAnInteger(Box<str>),
    TooLarge(Limit),
    /// A field to be swapped holds something else.
    Changed(Option<Bytes>),
}

/// Mirrored by `create.lua`.
pub(crate) fn create(new: NewSession, limits: Limits, now_ms: u64) -> Result<(Stored, u64), Limit> {
    let bytes = weigh(&new.fields);
    fits(new.fields.len(), bytes, limits)?;
    let deadline_ms = new.absolute.map_or(0, |life| now_ms + whole_ms(life));
    let stored = Stored {
        verifier: new.verifier,
        noted_ms: if new.user.is_some() { now_ms } else { 0 },
        user: new.user,
        created_ms: now_ms,
        idle_ms: whole_ms(new.idle),
        deadline_ms,
        persistent: new.persistent,
        device: new.device,
        previous: None,
        bytes,
        fields: Arc::new(new.fields),
    };
    let ttl_ms = ttl_ms(stored.idle_ms, deadline_ms, now_ms);
    Ok((stored, ttl_ms))
}

/// Mirrored by `commit.lua`.
pub(crate) fn commit(
    stored: &Stored,
    presented: &VerifierHash,
    delta: &Delta,
    limits: Limits,
    now_ms: u64,
) -> Result<Write, Refusal> {
    prove(stored, presented, now_ms)?;
    if let (Some(bound), Some(new)) = (&stored.user, &delta.user)
        && bound != new
    {
        return Err(Refusal::OtherUser);
    }
    let mut next = stored.clone();
    let sums = change(&mut next, delta).map_err(Refusal::NotAnInteger)?;
    if delta.changes.values().any(grows) {
        fits(next.fields.len(), next.bytes, limits).map_err(Refusal::TooLarge)?;
    }
    if let Some(idle) = delta.idle {
        next.idle_ms = whole_ms(idle);
    }
    match delta.absolute {
        Absolute::Keep => {}
        Absolute::Never => next.deadline_ms = 0,
        Absolute::In(life) => next.deadline_ms = now_ms + whole_ms(life),
    }
    let ttl_ms = live_ms(&next, now_ms)?;
    next.persistent = delta.persistent.unwrap_or(next.persistent);
    next.device = delta.device.clone().or(next.device);
    if let Some(verifier) = delta.verifier {
        next.previous = Some((next.verifier, now_ms));
        next.verifier = verifier;
    }
    let mut note = None;
    match &delta.user {
        // Whoever binds it notes it.
        Some(user) => (next.user, next.noted_ms) = (Some(user.clone()), now_ms),
        None => note = to_note(&mut next, now_ms),
    }
    Ok(Write { stored: next, ttl_ms, sums, note })
}

/// Mirrored by `swap.lua`.
pub(crate) fn swap(
    stored: &Stored,
    presented: &VerifierHash,
    swap: &Swap,
    limits: Limits,
    now_ms: u64,
) -> Result<Write, Refusal> {
    prove(stored, presented, now_ms)?;
    let held = stored.fields.get(&swap.field);
    if held != swap.seen.as_ref() {
        return Err(Refusal::Changed(held.cloned()));
    }
    let mut next = stored.clone();
    let fields = Arc::make_mut(&mut next.fields);
    fields.insert(swap.field.clone(), swap.value.clone());
    next.bytes = weigh(fields);
    fits(next.fields.len(), next.bytes, limits).map_err(Refusal::TooLarge)?;
    let ttl_ms = live_ms(&next, now_ms)?;
    let note = to_note(&mut next, now_ms);
    Ok(Write { stored: next, ttl_ms, sums: Vec::new(), note })
}

/// Mirrored by `destroy.lua`.
pub(crate) fn may_destroy(
    stored: &Stored,
    presented: &VerifierHash,
    user: Option<&UserId>,
) -> bool {
    stored.verifier == *presented || (user.is_some() && stored.user.as_ref() == user)
}

fn prove(stored: &Stored, presented: &VerifierHash, now_ms: u64) -> Result<(), Refusal> {
    if stored.verifier == *presented {
        return Ok(());
    }
    match stored.previous {
        Some((previous, at_ms))
            if previous == *presented && now_ms.saturating_sub(at_ms) < GRACE_MS =>
        {
            Err(Refusal::Rotated)
        }
        _ => Err(Refusal::Gone),
    }
}

/// How long a session lives from now, if it does.
fn live_ms(stored: &Stored, now_ms: u64) -> Result<u64, Refusal> {
    match ttl_ms(stored.idle_ms, stored.deadline_ms, now_ms) {
        0 => Err(Refusal::Gone),
        ttl_ms => Ok(ttl_ms),
    }
}

/// Whether the session is to be noted again in its user's list, which counts as done: as often as reads
/// slide it by default.
fn to_note(stored: &mut Stored, now_ms: u64) -> Option<Note> {
    let user = stored.user.clone()?;
    let often_ms = (stored.idle_ms / 20).min(60_000);
    if now_ms.saturating_sub(stored.noted_ms) < often_ms {
        return None;
    }
    stored.noted_ms = now_ms;
    Some(Note { user, idle: Duration::from_millis(stored.idle_ms) })
}

/// How long a session lives from now: `min(idle, deadline - now)`; 0 if it does not.
pub(crate) fn ttl_ms(idle_ms: u64, deadline_ms: u64, now_ms: u64) -> u64 {
    match deadline_ms {
        0 => idle_ms,
        deadline_ms => idle_ms.min(deadline_ms.saturating_sub(now_ms)),
    }
}

/// Whether restarting the idle timeout is worth a write; `now` is this process's time.
///
/// What it gains is measured against what a restart can reach, not against the idle timeout itself:
/// near the absolute deadline nothing can be gained, and each request would try. There it is only
/// restarted for the user's list, which tells when a session was seen last.
pub(crate) fn slide_is_due(record: &Record, throttle: Duration, now: Duration) -> bool {
    let Record { ttl, longest_ttl, idle, persistent, .. } = *record;
    let gains = match ttl {
        None => true,
        // It ends when it ends: its idle timeout is no shorter than its lifetime.
        Some(_) if persistent => false,
        Some(ttl) => longest_ttl.saturating_sub(ttl) >= throttle,
    };
    let listed = record.user.is_some() && longest_ttl < idle;
    gains || (listed && now.saturating_sub(record.noted) >= throttle.max(NOTED_EVERY))
}

/// How often the idle timeout is restarted if nobody says otherwise: a twentieth of it, at most
/// once a minute.
pub(crate) fn default_throttle(idle: Duration) -> Duration {
    (idle / 20).min(Duration::from_secs(60))
}

/// Whole milliseconds, at least 1: a timeout of zero would end what it is to keep.
pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, MAX_INTEGER as u64 / 2)
}

/// Whole milliseconds, which may be 0.
pub(crate) fn optional_ms(duration: Duration) -> u64 {
    if duration.is_zero() { 0 } else { whole_ms(duration) }
}

/// Names and values together.
pub(crate) fn weigh(fields: &Fields) -> usize {
    fields.iter().map(|(name, value)| name.len() + value.len()).sum()
}

pub(crate) fn fits(fields: usize, bytes: usize, limits: Limits) -> Result<(), Limit> {
    match () {
        () if fields > limits.fields => Err(Limit::Fields),
        () if bytes > limits.bytes => Err(Limit::Bytes),
        () => Ok(()),
    }
}

/// The value as an integer, if it is one that every language reads alike.
pub(crate) fn integer(value: &[u8]) -> Option<i64> {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: i64 = str::from_utf8(value).ok()?.parse().ok()?;
    (number.unsigned_abs() <= MAX_INTEGER as u64).then_some(number)
}

/// What an increment makes of a field: `None` if that is not an integer, or too large a one.
pub(crate) fn sum(value: Option<&Bytes>, by: i64) -> Option<i64> {
    let was = value.map_or(Some(0), |value| integer(value))?;
    let exact = |number: i64| number.unsigned_abs() <= MAX_INTEGER as u64;
    was.checked_add(by).filter(|sum| exact(by) && exact(*sum))
}

/// An integer as a field's value.
pub(crate) fn text(number: i64) -> Bytes {
    number.to_string().into()
}

fn grows(change: &Change) -> bool {
    matches!(change, Change::Set(_) | Change::Increment(_))
}

/// Makes the changes, and returns what the incremented fields hold; or the field that cannot be.
fn change(next: &mut Stored, delta: &Delta) -> Result<Vec<i64>, Box<str>> {
    let mut sums = Vec::new();
    if !delta.clear && delta.changes.is_empty() {
        return Ok(sums);
    }
    if delta.clear {
        next.fields = Arc::default();
    }
    let fields = Arc::make_mut(&mut next.fields);
    for (name, change) in &delta.changes {
        match change {
            Change::Set(value) => {
                fields.insert(name.clone(), value.clone());
            }
            Change::Remove => {
                fields.remove(name);
            }
            Change::RemoveIf(value) => {
                if fields.get(name) == Some(value) {
                    fields.remove(name);
                }
            }
            Change::Increment(by) => {
                let sum = sum(fields.get(name), *by).ok_or_else(|| name.clone())?;
                fields.insert(name.clone(), text(sum));
                sums.push(sum);
            }
        }
    }
    next.bytes = weigh(fields);
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::token::Token;

    const NOW: u64 = 1_000_000;
    const LIMITS: Limits = Limits::new(3, 40);

    fn stored(fields: &[(&str, &'static str)]) -> Stored {
        let mut new = NewSession::new(Token::random().hash(), Duration::from_millis(100));
        new.absolute = Some(Duration::from_millis(250));
        new.fields = fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        create(new, LIMITS, NOW).unwrap().0
    }

    fn delta(changes: &[(&str, Change)]) -> Delta {
        let changes = changes.iter().map(|(name, change)| ((*name).into(), change.clone()));
        Delta { changes: changes.collect(), ..Delta::default() }
    }

    fn run(stored: &Stored, delta: &Delta) -> Result<Write, Refusal> {
        commit(stored, &stored.verifier.clone(), delta, LIMITS, NOW)
    }

    #[test]
    fn a_session_lives_its_idle_timeout_and_never_past_its_deadline() {
        assert_eq!(ttl_ms(100, 0, NOW), 100);
        assert_eq!(ttl_ms(100, NOW + 250, NOW), 100);
        assert_eq!(ttl_ms(100, NOW + 30, NOW), 30);
        assert_eq!(ttl_ms(100, NOW - 1, NOW), 0);
    }

    #[test]
    fn a_slide_near_the_deadline_is_not_due_because_it_gains_nothing() {
        let ms = Duration::from_millis;
        let record = |ttl: Option<u64>, longest| {
            let mut record = Record::new(Token::random().hash(), ms(100), Fields::new());
            (record.ttl, record.longest_ttl) = (ttl.map(ms), ms(longest));
            record
        };
        let due = |record: &Record| slide_is_due(record, ms(10), ms(100_000));
        assert!(due(&record(Some(90), 100)));
        assert!(!due(&record(Some(91), 100)));
        assert!(!due(&record(Some(30), 30)));
        assert!(due(&record(None, 100)), "an entry that never expires is given an end");

        let mut bound = record(Some(30), 30);
        bound.user = Some(UserId::new("7"));
        assert!(due(&bound), "its user's list says when it was seen");
        bound.noted = ms(40_001);
        assert!(!due(&bound), "that was said less than a minute ago");
        let mut remembered = record(Some(30), 60);
        remembered.persistent = true;
        assert!(!due(&remembered), "clocks that differ make no slide due");
    }

    #[test]
    fn another_proof_changes_nothing() {
        let stored = stored(&[]);
        let other = Token::random().hash();
        let refusal = commit(&stored, &other, &Delta::default(), LIMITS, NOW).err();
        assert_eq!(refusal, Some(Refusal::Gone));
    }

    #[test]
    fn bytes_are_counted_through_every_kind_of_change() {
        let before = stored(&[("a", "1"), ("b", "22")]);
        assert_eq!(before.bytes, 5);
        let write = run(
            &before,
            &delta(&[
                ("a", Change::Increment(9)),
                ("b", Change::Remove),
                ("cc", Change::Set("333".into())),
            ]),
        )
        .unwrap();
        assert_eq!((write.stored.bytes, write.sums), (8, vec![10]));
        let cleared = Delta { clear: true, ..delta(&[("a", Change::Increment(2))]) };
        let write = run(&before, &cleared).unwrap();
        assert_eq!((write.stored.bytes, write.sums), (2, vec![2]));
    }

    #[test]
    fn a_session_at_its_limits_can_shrink_and_cannot_grow() {
        let full = stored(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let set = |name, value: &'static str| delta(&[(name, Change::Set(value.into()))]);
        assert_eq!(run(&full, &set("d", "1")).err(), Some(Refusal::TooLarge(Limit::Fields)));
        let large = "0123456789012345678901234567890123456789";
        assert_eq!(run(&full, &set("a", large)).err(), Some(Refusal::TooLarge(Limit::Bytes)));
        let tighter = Limits::new(1, 1);
        let shrink = delta(&[("a", Change::Remove)]);
        assert!(commit(&full, &full.verifier, &shrink, tighter, NOW).is_ok());
        assert!(commit(&full, &full.verifier, &Delta::default(), tighter, NOW).is_ok());
    }

    #[test]
    fn only_integers_that_every_language_reads_alike_are_incremented() {
        for (value, read) in [
            ("0", Some(0)),
            ("-7", Some(-7)),
            ("9007199254740991", Some(MAX_INTEGER)),
            ("9007199254740992", None),
            ("99999999999999999999999", None),
            ("1.0", None),
            ("1e3", None),
            ("\"1\"", None),
            ("+1", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(integer(value.as_bytes()), read, "{value:?}");
        }
        let most = Bytes::from(MAX_INTEGER.to_string());
        assert_eq!(sum(Some(&most), 1), None);
        assert_eq!(sum(Some(&most), -1), Some(MAX_INTEGER - 1));
        assert_eq!(sum(None, i64::MIN), None);
    }

    #[test]
    fn a_field_that_cannot_be_incremented_is_named_and_the_rest_is_not_done() {
        let before = stored(&[("a", "[]")]);
        let refusal =
            run(&before, &delta(&[("a", Change::Increment(1)), ("b", Change::Set("1".into()))]));
        assert_eq!(refusal.err(), Some(Refusal::NotAnInteger("a".into())));
    }

    #[test]
    fn a_session_bound_to_one_user_is_not_bound_to_another() {
        let mut bound = stored(&[]);
        bound.user = Some(UserId::new("7"));
        let bind = |user: &str| Delta { user: Some(UserId::new(user)), ..Delta::default() };
        assert_eq!(run(&bound, &bind("8")).err(), Some(Refusal::OtherUser));
        assert!(run(&bound, &bind("7")).is_ok());
    }

    #[test]
    fn only_the_proof_or_the_user_may_destroy() {
        let mut session = stored(&[]);
        let (stranger, user) = (Token::random().hash(), UserId::new("7"));
        assert!(may_destroy(&session, &session.verifier.clone(), None));
        assert!(!may_destroy(&session, &stranger, None));
        assert!(!may_destroy(&session, &stranger, Some(&user)), "an anonymous session has no user");
        session.user = Some(user.clone());
        assert!(may_destroy(&session, &stranger, Some(&user)));
        assert!(!may_destroy(&session, &stranger, Some(&UserId::new("8"))));
    }
}
