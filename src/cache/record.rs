//! What a store keeps about an entry beside the response, and the rules of its verbs: the Rust twin
//! of the Lua scripts. Times are integer milliseconds by the store's clock.

use crate::cache::{
    purges::Standing,
    store::{Fill, Found, LeaseReply, Lookup},
    stored::StoredResponse,
    tag::Tags,
};
use std::{sync::Arc, time::Duration};

/// About a stored response: `1|stamp|born|fresh|keep|cost|seen|tags` in Redis. A later version may
/// append fields; one that changes these changes the number in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The token of the fill.
    pub(crate) stamp: Arc<str>,
    /// When its age was zero.
    pub(crate) born: u64,
    /// Until when it is fresh.
    pub(crate) fresh: u64,
    /// Until when it is kept.
    pub(crate) keep: u64,
    /// How long it took to make.
    pub(crate) cost: u64,
    /// The number of the last purge that was known before it was begun.
    pub(crate) seen: u64,
    pub(crate) tags: Tags,
}

impl Meta {
    /// What is known of a response that is stored now. `None` if it is past keeping. Mirrored by
    /// `fill.lua`.
    pub(crate) fn new(token: &str, fill: &Fill, now: u64) -> Option<Self> {
        let fresh = (now + ms(fill.lifetime)).saturating_sub(ms(fill.age));
        let keep = fresh + ms(fill.stale);
        let born = now.saturating_sub(ms(fill.age));
        let (stamp, cost, tags) = (token.into(), ms(fill.cost), fill.tags.clone());
        let meta = Self { stamp, born, fresh, keep, cost, seen: fill.seen, tags };
        (keep > now).then_some(meta)
    }

    /// Reads the form that `fill.lua` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('|');
        if fields.next()? != "1" {
            return None;
        }
        let stamp = fields.next()?.into();
        let mut number = || fields.next()?.parse().ok();
        let (born, fresh, keep, cost, seen) =
            (number()?, number()?, number()?, number()?, number()?);
        let tags = Tags::parse(fields.next()?)?;
        Some(Self { stamp, born, fresh, keep, cost, seen, tags })
    }

    /// The stamp that `lease.lua` reads, though the rest cannot be read.
    pub(crate) fn stamp_of(text: &str) -> Option<Arc<str>> {
        Some(text.strip_prefix("1|")?.split('|').next()?.into())
    }

    /// What a lookup answers, after what purges say of it.
    pub(crate) fn found(
        &self,
        response: Arc<StoredResponse>,
        standing: Standing,
        now: u64,
    ) -> Lookup {
        let (stamp, tags) = (self.stamp.clone(), self.tags.clone());
        if self.keep <= now || matches!(standing, Standing::Gone | Standing::Lost) {
            return Lookup::Absent { stamp: Some(stamp) };
        }
        let stale_for = Duration::from_millis(now.saturating_sub(self.fresh));
        let (fresh_for, stale_for) = match standing.stale_for(now) {
            Some(since) => (Duration::ZERO, stale_for.max(since)),
            None => (self.fresh_for(now), stale_for),
        };
        Lookup::Found(Found { response, stamp, tags, age: self.age(now), fresh_for, stale_for })
    }

    fn age(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.born))
    }

    /// Never longer than it was at the start, should the clock have gone back.
    fn fresh_for(&self, now: u64) -> Duration {
        let lifetime = self.fresh.saturating_sub(self.born);
        Duration::from_millis(self.fresh.saturating_sub(now).min(lifetime))
    }
}

/// A lease, or the mark that nobody needs one: `owner|until|length` in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    owner: Option<Box<str>>,
    until: u64,
    length: u64,
}

impl Held {
    pub(crate) fn lease(token: &str, length: Duration, now: u64) -> Self {
        Self { owner: Some(token.into()), until: now + ms(length), length: ms(length) }
    }

    /// The mark of a response that cannot be stored.
    pub(crate) fn uncacheable(length: Duration, now: u64) -> Self {
        Self { owner: None, until: now + ms(length), length: ms(length) }
    }

    pub(crate) fn until(&self) -> u64 {
        self.until
    }

    /// The time left. An end that is further away than the whole length means that the clock went
    /// back, and counts as past.
    fn left(&self, now: u64) -> Option<Duration> {
        let left = self.until.checked_sub(now).filter(|&left| left > 0 && left <= self.length)?;
        Some(Duration::from_millis(left))
    }
}

/// Whether `token` holds the lease. Mirrored by `fill.lua`, `renew.lua` and `release.lua`.
pub(crate) fn holds(held: Option<&Held>, token: &str, now: u64) -> bool {
    held.is_some_and(|held| held.owner.as_deref() == Some(token) && held.left(now).is_some())
}

/// Who makes the response. Mirrored by `lease.lua`.
pub(crate) fn contend(
    held: Option<&Held>,
    stored: Option<&Meta>,
    token: &str,
    seen: Option<&str>,
    now: u64,
) -> LeaseReply {
    if stored.is_some_and(|meta| meta.fresh > now && Some(&*meta.stamp) != seen) {
        return LeaseReply::Filled;
    }
    match held.and_then(|held| Some((held.owner.as_deref(), held.left(now)?))) {
        Some((None, left)) => LeaseReply::Uncacheable { left },
        Some((Some(owner), left)) if owner != token => LeaseReply::Held { left },
        _ => LeaseReply::Granted,
    }
}

/// So many variants an entry has at most; one more, and they are all forgotten.
pub(crate) const MAX_VARIANTS: usize = 64;

/// Whether a variant that was found by the names `asked` is found by those in `held` too. Mirrored by
/// `fill.lua`.
pub(crate) fn covers(asked: &str, held: &str) -> bool {
    held.is_empty() || held.split(',').all(|name| asked.split(',').any(|other| other == name))
}

/// Whole milliseconds, at most some 35,000 years, so that sums with a time do not overflow and Lua's
/// numbers are exact.
pub(crate) fn ms(duration: Duration) -> u64 {
    duration.as_millis().min(1 << 50) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tag::Tag;

    const NOW: u64 = 1_760_000_000_000;
    const SECOND: Duration = Duration::from_secs(1);

    /// Of what is fresh for 5 ms.
    fn meta(keep: u64) -> Meta {
        let (stamp, tags) = ("x".into(), Tags::default());
        Meta { stamp, born: NOW, fresh: NOW + 5, keep, cost: 0, seen: 0, tags }
    }

    #[test]
    fn a_lease_is_held_to_its_end_and_not_beyond() {
        let held = Held::lease("a", SECOND, NOW);
        assert!(holds(Some(&held), "a", NOW + 999));
        assert!(!holds(Some(&held), "a", NOW + 1_000));
        assert!(!holds(Some(&held), "b", NOW));
        assert_eq!(
            contend(Some(&held), None, "b", None, NOW + 1),
            LeaseReply::Held { left: Duration::from_millis(999) }
        );
        assert_eq!(contend(Some(&held), None, "b", None, NOW + 1_000), LeaseReply::Granted);
        assert_eq!(contend(Some(&held), None, "a", None, NOW + 1), LeaseReply::Granted);
    }

    #[test]
    fn a_lease_from_the_future_has_ended() {
        let held = Held::lease("a", SECOND, NOW);
        assert!(!holds(Some(&held), "a", NOW - 1));
        assert_eq!(contend(Some(&held), None, "b", None, NOW - 1), LeaseReply::Granted);
    }

    #[test]
    fn what_was_stored_meanwhile_is_told_unless_the_caller_saw_it_or_it_is_stale() {
        let meta = meta(NOW + 9);
        let ask = |seen, now| contend(None, Some(&meta), "t", seen, now);
        assert_eq!(ask(None, NOW), LeaseReply::Filled);
        assert_eq!(ask(Some("y"), NOW), LeaseReply::Filled);
        assert_eq!(ask(Some("x"), NOW), LeaseReply::Granted);
        assert_eq!(ask(None, NOW + 5), LeaseReply::Granted);
    }

    #[test]
    fn nobody_holds_the_mark_of_an_uncacheable_response() {
        let mark = Held::uncacheable(SECOND, NOW);
        assert!(!holds(Some(&mark), "", NOW) && !holds(Some(&mark), "!", NOW));
        assert_eq!(
            contend(Some(&mark), None, "a", None, NOW),
            LeaseReply::Uncacheable { left: SECOND }
        );
        assert_eq!(contend(Some(&mark), None, "a", None, NOW + 1_000), LeaseReply::Granted);
    }

    #[test]
    fn meta_of_a_later_version_may_have_more_fields_but_not_another_number() {
        let tags: Tags = ["a", "b"].map(|name| Tag::named(name).unwrap()).into_iter().collect();
        let text = format!("1|tok|10|20|30|4|5|{}", tags.as_str());
        let meta = Meta::parse(&text).unwrap();
        assert_eq!(
            (&*meta.stamp, meta.born, meta.fresh, meta.keep, meta.cost, meta.seen, &meta.tags),
            ("tok", 10, 20, 30, 4, 5, &tags)
        );
        assert_eq!(Meta::parse(&format!("{text}|kind")), Some(meta));
        assert_eq!(Meta::parse("1|tok|10|20|30|4|5|").unwrap().tags, Tags::default());
        for other in [
            "",
            "2|tok|10|20|30|4|5|",
            "1|tok|10|20|30|4|5",
            "1|tok|10|x|30|4|5|",
            "1|tok|-1|2|3|4|5|",
            "1|tok|10|20|30|4|5|x",
        ] {
            assert_eq!(Meta::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_purges_say_decides_what_is_found() {
        let response = Arc::new(StoredResponse::new("key", http::Response::default()));
        let ask = |standing, now| match meta(NOW + 9).found(response.clone(), standing, now) {
            Lookup::Found(found) => Some((found.fresh_for, found.stale_for)),
            Lookup::Absent { stamp } => {
                assert_eq!(stamp.as_deref(), Some("x"), "whoever makes it anew says what they saw");
                None
            }
            other => panic!("{other:?}"),
        };
        let ms = Duration::from_millis;
        let stale = Standing::Stale { since_us: (NOW + 1) * 1_000 };
        assert_eq!(ask(Standing::Good, NOW + 3), Some((ms(2), ms(0))));
        assert_eq!(ask(Standing::Good, NOW + 7), Some((ms(0), ms(2))));
        assert_eq!(ask(stale, NOW + 3), Some((ms(0), ms(2))), "since the purge");
        assert_eq!(ask(stale, NOW + 8), Some((ms(0), ms(7))), "since the purge, not the end");
        assert_eq!(ask(Standing::Gone, NOW), None);
        assert_eq!(ask(Standing::Lost, NOW), None);
        assert_eq!(ask(Standing::Good, NOW + 9), None);
    }

    #[test]
    fn more_names_cover_fewer() {
        for (asked, held, expected) in [
            ("", "", true),
            ("a", "", true),
            ("a,b", "b", true),
            ("a", "a,b", false),
            ("", "a", false),
            ("ab", "a", false),
        ] {
            assert_eq!(covers(asked, held), expected, "{asked:?} {held:?}");
        }
    }

    #[test]
    fn a_clock_that_went_back_does_not_lengthen_freshness() {
        let meta = meta(NOW + 5);
        assert_eq!(meta.fresh_for(NOW - 1_000), Duration::from_millis(5));
        assert_eq!(meta.age(NOW - 1_000), Duration::ZERO);
    }
}
