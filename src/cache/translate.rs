//! A stored response in the language that a request prefers, although it answered another request.

use crate::cache::{
    http::{language, serve::Use},
    layer::Shared,
    status::Forward,
    store::{Address, Found, Lookup},
    visit::{Judgement, Visit},
};
use http::{HeaderMap, header::ACCEPT_LANGUAGE};
use std::mem;

impl Visit {
    /// Makes it a question for the variant in the language that is preferred, if one is known.
    pub(super) fn look_for_language(&mut self, shared: &Shared, request: &HeaderMap) -> bool {
        let Some(memo) =
            shared.languages.as_ref().filter(|_| !mem::replace(&mut self.translated, true))
        else {
            return false;
        };
        let (entry, vary) = (self.address.entry(), self.address.vary());
        let Some(language) = language::preferred(request) else { return false };
        let variant = memo.get(&self.in_language(&language, vary, request));
        if variant.is_empty() {
            return false;
        }
        let lane = self.address.lane();
        let other = Address::variant_of(entry, &*variant, lane).varying_by(vary);
        self.own = Some(mem::replace(&mut self.address, other));
        true
    }

    /// Whether another variant will do, since it is in the language that is preferred.
    pub(super) fn judge_language(
        &mut self,
        shared: &Shared,
        lookup: Lookup,
        request: &HeaderMap,
    ) -> Judgement {
        let will_do = |found: &Found| {
            let spoken = language::of_response(&found.response.snapshot.headers);
            *found.response.key == *self.identity()
                && self.is_met_by(&found.response)
                && spoken.is_some()
                && spoken == language::preferred(request)
                && shared.policy.decide(found, &self.asked, shared.windows) == Use::Answer
        };
        match lookup {
            Lookup::Found(found) if will_do(&found) => Judgement::Hit(found),
            _ => self.miss(Forward::VaryMiss, None),
        }
    }

    /// Remembers in which language a variant is.
    pub(super) fn note_language(
        &self,
        shared: &Shared,
        variant: &str,
        vary: &str,
        response: &HeaderMap,
        request: &HeaderMap,
    ) {
        if let Some(memo) = &shared.languages
            && vary.split(',').any(|name| name == ACCEPT_LANGUAGE)
            && let Some(language) = language::of_response(response)
        {
            memo.set(&self.in_language(&language, vary, request), &variant.into());
        }
    }

    /// What variants in this language have in common for such a request.
    fn in_language(&self, language: &str, vary: &str, request: &HeaderMap) -> String {
        let others: Vec<_> = vary.split(',').filter(|&name| name != ACCEPT_LANGUAGE).collect();
        let variant = self.variant(&others.join(","), request);
        format!("{} {variant} {language}", self.address.entry())
    }
}
