//! What a handler says of its response to the cache alone.

use crate::{
    cache::tag::{Tag, Tags},
    store::StoreError,
    telemetry,
};
use http::Extensions;
use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// So many tags and groups a response may have.
pub(crate) const MAX_TAGS: usize = 64;

/// So many it may have of stored responses that it is made of.
const MAX_INHERITED: usize = 1_024;

/// What a handler says of its response to the cache alone; nothing of it goes to the client.
///
/// An axum handler takes it as an argument, any other service [from the extensions](CacheControl::of)
/// of its request. Where no cache wants to hear it, nothing happens.
///
/// ```
/// use axum::extract::Path;
/// use std::time::Duration;
/// use towerkeep::cache::CacheControl;
///
/// async fn post(Path(id): Path<u64>, cache: CacheControl) -> String {
///     cache.tag(format!("post:{id}")).ttl(Duration::from_secs(60));
///     format!("post {id}")
/// }
/// ```
#[derive(Clone, Default)]
pub struct CacheControl(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    ttl: Option<Duration>,
    named: BTreeSet<Tag>,
    /// Of a stored response that a cache further in has answered with.
    inherited: BTreeSet<Tag>,
    faulty: bool,
}

impl CacheControl {
    /// That of a request, which a cache has put there.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Tags the response with a name that a
    /// [purge](crate::cache::CacheHandle::purge_tag) finds it by: what would change it, such as
    /// `post:7`. May be called until the body has ended.
    ///
    /// A response has at most 64 tags of 1 to 256 bytes. One that is given more, or another, is **not
    /// stored** (`detail=tags`), since no purge would find it; a warning says why. Nor is one that is made
    /// of stored ones, of caches further in, with more than 1,024 tags and URIs.
    pub fn tag(&self, name: impl AsRef<str>) -> &Self {
        let told = Tag::named(name.as_ref()).and_then(|tag| self.said().tag(tag));
        if let Err(error) = told {
            self.said().faulty = true;
            telemetry::warn(format_args!("a response is not stored: {error}"));
        }
        self
    }

    /// The same, for several names.
    pub fn tags(&self, names: impl IntoIterator<Item = impl AsRef<str>>) -> &Self {
        for name in names {
            self.tag(name);
        }
        self
    }

    /// How long the response is fresh from now on, whatever `Cache-Control` and `Expires` say of that.
    /// It counts only if its status is 200, 203, 204, 300, 301, 308 or 410, so that a handler may say it
    /// before it knows that it succeeds. What a response forbids still holds. Default: what its
    /// headers say.
    pub fn ttl(&self, ttl: Duration) -> &Self {
        self.said().ttl = Some(ttl);
        self
    }

    pub(crate) fn told_ttl(&self) -> Option<Duration> {
        self.said().ttl
    }

    /// Whether it was given tags that it cannot have.
    pub(crate) fn is_faulty(&self) -> bool {
        self.said().faulty
    }

    /// Takes over what a stored response has that is part of this one.
    pub(crate) fn inherit(&self, tags: &Tags) {
        let mut said = self.said();
        said.inherited.extend(tags.iter());
        if said.inherited.len() > MAX_INHERITED {
            said.inherited.clear();
            said.faulty = true;
            drop(said);
            telemetry::warn(format_args!(
                "a response is not stored: it is made of stored ones with more than {MAX_INHERITED} tags"
            ));
        }
    }

    pub(crate) fn named(&self) -> Vec<Tag> {
        let said = self.said();
        said.named.iter().chain(&said.inherited).copied().collect()
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn tag(&mut self, tag: Tag) -> Result<(), StoreError> {
        if self.named.len() >= MAX_TAGS && !self.named.contains(&tag) {
            return Err(StoreError::refused(format!(
                "it has more than {MAX_TAGS} tags; tag it by what they have in common"
            )));
        }
        self.named.insert(tag);
        Ok(())
    }
}

#[cfg(feature = "axum")]
impl<S: Sync> axum::extract::FromRequestParts<S> for CacheControl {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _: &S,
    ) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.extensions))
    }
}

impl fmt::Debug for CacheControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = self.said();
        f.debug_struct("CacheControl")
            .field("tags", &said.named.len())
            .field("ttl", &said.ttl)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_counts_once_and_too_many_are_a_fault() {
        let control = CacheControl::default();
        for _ in 0..2 {
            control.tags((0..MAX_TAGS).map(|n| n.to_string()));
        }
        assert_eq!((control.named().len(), control.is_faulty()), (MAX_TAGS, false));
        control.tag("one more");
        assert_eq!((control.named().len(), control.is_faulty()), (MAX_TAGS, true));
    }

    #[test]
    fn a_name_that_is_none_is_a_fault() {
        for name in ["", &"x".repeat(257)] {
            let control = CacheControl::default();
            assert!(control.tag("a").tag(name).is_faulty());
        }
    }

    #[test]
    fn what_is_made_of_too_many_stored_responses_is_a_fault() {
        let control = CacheControl::default();
        let of = |n: usize| [n.to_string()].iter().map(|n| Tag::named(n).unwrap()).collect();
        for n in (0..MAX_INHERITED).chain(0..MAX_INHERITED) {
            control.inherit(&of(n));
        }
        assert_eq!((control.named().len(), control.is_faulty()), (MAX_INHERITED, false));
        control.inherit(&of(MAX_INHERITED));
        assert_eq!((control.named().len(), control.is_faulty()), (0, true));
    }

    #[test]
    fn without_a_cache_it_is_heard_by_nobody() {
        let control = CacheControl::of(&Extensions::new());
        control.tag("a").ttl(Duration::from_secs(1));
        assert_eq!(control.told_ttl(), Some(Duration::from_secs(1)));
    }
}
