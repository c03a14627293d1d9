//! What a response is purged by: what its handler says, what its headers name, and where it was asked for.

use crate::cache::{
    control::MAX_TAGS,
    http::{groups, storing::Asked},
    layer::Shared,
    policy::Reason,
    store::Found,
    tag::{Tag, Tags},
    visit::Visit,
};
use http::HeaderMap;

impl Visit {
    /// What of the request, and of what its handler says, counts for whether the response is stored.
    pub(crate) fn asked_of_store(&self) -> Asked {
        Asked { authorized: self.authorized, ttl: self.control().told_ttl(), ..Asked::default() }
    }

    /// What its response is purged by: its URI, the parts of its path, what the handler says, and the
    /// groups that its headers name.
    pub(crate) fn tags(&self, shared: &Shared, response: &HeaderMap) -> Result<Vec<Tag>, Reason> {
        let mut tags = self.control().named();
        let limit = MAX_TAGS.saturating_sub(tags.len());
        tags.extend(self.groups(shared, response, limit)?);
        tags.push(self.key.tag());
        tags.extend(Tag::prefixes(self.key.target()));
        match self.control().is_faulty() {
            true => Err(Reason::Tags),
            false => Ok(tags),
        }
    }

    /// The same for what is held, now that it has these headers.
    pub(crate) fn tags_of_held(
        &self,
        shared: &Shared,
        held: &Found,
        headers: &HeaderMap,
    ) -> Result<Tags, Reason> {
        let old = &held.response.snapshot.headers;
        let left = self.groups(shared, old, usize::MAX).unwrap_or_default();
        let kept = held.tags.iter().filter(|tag| !left.contains(tag));
        let tags: Tags = kept.chain(self.tags(shared, headers)?).collect();
        // Each answer may have named others.
        match tags.iter().count() > 2 * MAX_TAGS {
            true => Err(Reason::Tags),
            false => Ok(tags),
        }
    }

    fn groups(
        &self,
        shared: &Shared,
        response: &HeaderMap,
        limit: usize,
    ) -> Result<Vec<Tag>, Reason> {
        match shared.policy.is_proxy() {
            true => groups::of(response, self.key.origin(), limit).map_err(|_| Reason::Tags),
            false => Ok(Vec::new()),
        }
    }

    /// Takes over what a stored response is purged by that becomes a part of the new one.
    pub(crate) fn inherit(&self, found: &Found) {
        self.control().inherit(&found.tags);
    }

    /// Tells a cache further out what the stored response that is the answer is purged by.
    pub(crate) fn answered_with(&self, found: &Found) {
        if self.nested {
            self.control().inherit(&found.tags);
        }
    }
}
