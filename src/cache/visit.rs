//! What the cache knows of one request.

use crate::{
    cache::{
        control::CacheControl,
        http::{
            directives::RequestDirectives,
            extent::Extent,
            range::{Part, RangeRequest},
            serve::Use,
            validate::Conditions,
            vary,
        },
        key::Key,
        layer::Shared,
        policy::Reason,
        query_method,
        status::{CacheStatus, Forward},
        store::{Address, Found, Lane, Lookup},
        stored::StoredResponse,
    },
    marks::SessionTouched,
};
use http::{Extensions, HeaderMap, Method, StatusCode, header::AUTHORIZATION, request::Parts};
use http_body::Body;
use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};
use tokio::time::Instant;

/// A request that may be answered from the cache.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) key: Key,
    /// What its content asks.
    question: Option<Arc<str>>,
    pub(crate) address: Address,
    pub(crate) head: bool,
    pub(crate) authorized: bool,
    pub(crate) conditions: Conditions,
    pub(crate) range: Option<RangeRequest>,
    /// What the request asks of caches.
    pub(crate) asked: RequestDirectives,
    /// A stored response that does not say when it was modified goes by its `Date`.
    by_date: bool,
    /// What is stored and is not the answer as it is: the origin may say that it holds, or fail.
    pub(crate) held: Option<Found>,
    /// The client has its answer: this is for the store.
    pub(crate) background: bool,
    /// Why the store's answer would not do.
    pub(crate) forward: Forward,
    /// The stamp of what is stored and would not do.
    pub(crate) seen: Option<Arc<str>>,
    /// It waited for the response to another request.
    pub(crate) collapsed: bool,
    /// Why its response is not stored, if that is known before it is there.
    pub(crate) detail: Option<Reason>,
    /// Until when it waits.
    pub(crate) deadline: Instant,
    /// The entry turned out to vary by something else than was thought.
    moved: bool,
    /// Another variant was looked up for its language.
    pub(super) translated: bool,
    /// Its own address, while that is.
    pub(super) own: Option<Address>,
    session: Option<SessionTouched>,
    /// What the handler says of its response, to this cache and to those further out.
    control: OnceLock<CacheControl>,
    /// There is a cache further out that may store the answer.
    pub(super) nested: bool,
}

/// What is to be done with a request on its arrival.
pub(crate) enum Admission {
    /// Look it up.
    Visit(Box<Visit>),
    /// Hand it on. Nothing is stored.
    Bypass(Reason),
    /// Hand it on. If it changes something, what is stored is to be forgotten.
    Change(Box<Visit>),
    /// A cache further out has done all that this one could do.
    Nested,
}

/// What a lookup means for a request.
pub(crate) enum Judgement {
    Hit(Found),
    /// It is the answer, and a new one is to be made.
    Refresh(Found),
    Miss,
    /// It varies by something else than was thought: look the right variant up.
    Moved,
    /// It is stored, and not for this client.
    NotForYou,
}

/// In the extensions of a request that a cache hands on: a second cache with the same key would wait
/// for the first one's lease, and so for itself.
#[derive(Clone)]
struct HandedOn(Arc<str>);

impl Visit {
    pub(crate) fn of<B: Body>(shared: &Shared, request: &Parts, body: &B) -> Admission {
        if let Err(reason) = shared.policy.admit(request, body) {
            if shared.policy.invalidates(&request.method)
                && let Ok(key) = shared.key.of(request)
            {
                return Admission::Change(Box::new(Self::new(shared, request, key).of_change()));
            }
            return Admission::Bypass(reason);
        }
        let key = match shared.key.of(request) {
            Ok(key) => key,
            Err(error) => return Admission::Bypass(error.into()),
        };
        let visit = Self::new(shared, request, key);
        let outer = request.extensions.get::<HandedOn>();
        if outer.is_some_and(|outer| *outer.0 == *visit.address.entry()) {
            return Admission::Nested;
        }
        Admission::Visit(Box::new(visit))
    }

    fn new(shared: &Shared, request: &Parts, key: Key) -> Self {
        let authorized = request.headers.contains_key(AUTHORIZATION);
        let lane = if authorized { Lane::Authorized } else { Lane::Open };
        let question = query_method::question(request).and_then(Result::ok);
        let entry = match question {
            Some(_) => key.hash_of_questions(),
            None => key.hash(),
        };
        let names = match shared.policy.is_proxy() {
            true => shared.vary.get(&entry),
            false => Arc::default(),
        };
        let variant = vary::variant(&names, question.as_deref(), &request.headers);
        let address = Address::variant_of(entry, variant, lane).varying_by(&*names);
        let outer = request.extensions.get::<CacheControl>().cloned();
        Self {
            key,
            question,
            address,
            head: request.method == Method::HEAD,
            authorized,
            conditions: Conditions::of(&request.headers),
            range: RangeRequest::of(&request.headers),
            asked: shared.policy.asked(&request.headers),
            by_date: shared.policy.is_proxy(),
            held: None,
            background: false,
            moved: false,
            translated: false,
            own: None,
            forward: Forward::UriMiss,
            seen: None,
            collapsed: false,
            detail: None,
            deadline: Instant::now() + shared.wait,
            session: request.extensions.get::<SessionTouched>().cloned(),
            nested: outer.is_some(),
            control: outer.map(OnceLock::from).unwrap_or_default(),
        }
    }

    /// What it asks by is the handler's business: it is not a question.
    fn of_change(self) -> Self {
        let conditions = Conditions::default();
        Self { conditions, range: None, forward: Forward::Method, ..self }
    }

    /// Whether what was found will do for a request with these headers, and if not, why.
    pub(crate) fn judge(
        &mut self,
        shared: &Shared,
        lookup: Lookup,
        request: &HeaderMap,
    ) -> Judgement {
        if let Some(own) = self.own.take() {
            self.address = own;
            return self.judge_language(shared, lookup, request);
        }
        let found = match lookup {
            Lookup::Found(found) => found,
            Lookup::Varies { names } => return self.look_elsewhere(shared, &names, request),
            Lookup::Absent { stamp } => return self.miss(Forward::UriMiss, stamp),
            Lookup::NoVariant if self.look_for_language(shared, request) => {
                return Judgement::Moved;
            }
            Lookup::NoVariant => return self.miss(Forward::VaryMiss, None),
        };
        if *found.response.key != *self.identity() {
            return self.miss(Forward::UriMiss, Some(found.stamp));
        }
        if found.response.is_part() && !shared.policy.is_proxy() {
            return self.miss(Forward::UriMiss, Some(found.stamp));
        }
        if !self.is_met_by(&found.response) {
            let stamp = found.stamp.clone();
            self.held = Some(found);
            return self.miss_held(Forward::Partial, stamp);
        }
        let good_for = shared.policy.decide(&found, &self.asked, shared.windows);
        if good_for == Use::Validate {
            let stale = found.fresh_for.is_zero() || self.asked == RequestDirectives::default();
            let stamp = found.stamp.clone();
            self.held = Some(found);
            return self.miss_held(if stale { Forward::Stale } else { Forward::Request }, stamp);
        }
        let headers = &found.response.snapshot.headers;
        self.note_language(shared, self.address.variant(), self.address.vary(), headers, request);
        if self.authorized && !shared.policy.may_answer_authorized(headers) {
            self.forward = Forward::Request;
            return Judgement::NotForYou;
        }
        match good_for {
            Use::AnswerAndRefresh => Judgement::Refresh(found),
            _ => Judgement::Hit(found),
        }
    }

    fn look_elsewhere(
        &mut self,
        shared: &Shared,
        names: &Arc<str>,
        request: &HeaderMap,
    ) -> Judgement {
        // What varies by something else each time is not looked for for ever.
        if self.moved || !shared.policy.is_proxy() {
            return self.miss(Forward::VaryMiss, None);
        }
        self.moved = true;
        shared.vary.set(self.address.entry(), names);
        let (entry, variant) = (self.address.entry(), self.variant(names, request));
        self.address =
            Address::variant_of(entry, variant, self.address.lane()).varying_by(&**names);
        Judgement::Moved
    }

    /// The variant that a request with these headers gets, if the entry varies by `names`.
    pub(crate) fn variant(&self, names: &str, request: &HeaderMap) -> String {
        vary::variant(names, self.question.as_deref(), request)
    }

    /// All that makes another request the same.
    pub(crate) fn identity(&self) -> Cow<'_, [u8]> {
        match &self.question {
            None => self.key.as_bytes().into(),
            Some(question) => self.key.asking(question).into(),
        }
    }

    pub(super) fn miss(&mut self, forward: Forward, seen: Option<Arc<str>>) -> Judgement {
        self.held = None;
        self.forward = forward;
        self.seen = seen;
        Judgement::Miss
    }

    fn miss_held(&mut self, forward: Forward, seen: Arc<str>) -> Judgement {
        self.forward = forward;
        self.seen = Some(seen);
        Judgement::Miss
    }

    /// What is stored, if it may be the answer because the handler fails.
    pub(crate) fn stand_in(&self, shared: &Shared) -> Option<&Found> {
        let held = self.held.as_ref()?;
        let allowed = !self.authorized
            || shared.policy.may_answer_authorized(&held.response.snapshot.headers);
        let stands_in = shared.policy.stands_in(held, &self.asked, shared.windows);
        (allowed && stands_in && self.is_met_by(&held.response)).then_some(held)
    }

    /// The part of a stored response that is asked for.
    pub(crate) fn part(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        extent: Option<Extent>,
    ) -> Part {
        let divisible = matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
        match (&self.range, extent) {
            (Some(range), Some(extent)) if divisible => range.part(headers, extent.total),
            _ => Part::Whole,
        }
    }

    /// Whether the client has what is stored already.
    pub(crate) fn is_known(&self, status: StatusCode, stored: &HeaderMap) -> bool {
        // To the second, what was purged and made again looks the same: an application purges.
        match self.by_date {
            true => self.conditions.stored_not_modified(status, stored),
            false => self.conditions.not_modified(status, stored),
        }
    }

    /// Whether what is stored has all that is asked for: a part of a response answers who asks for no
    /// more (RFC 9111, section 3.3).
    pub(crate) fn is_met_by(&self, response: &StoredResponse) -> bool {
        let snapshot = &response.snapshot;
        let (status, headers) = (snapshot.status, &snapshot.headers);
        let within = || {
            let extent = Extent::of_part(headers);
            match (self.part(status, headers, extent), extent) {
                (Part::Bytes(bytes), Some(extent)) => extent.locate(&bytes).is_some(),
                _ => false,
            }
        };
        !response.is_part() || (!self.head && (self.is_known(status, headers) || within()))
    }

    /// Whether it asks for a part of what is not stored as a whole: that is nothing to wait for.
    pub(crate) fn wants_part(&self) -> bool {
        self.range.is_some() && self.held.as_ref().is_none_or(|held| held.response.is_part())
    }

    /// The status of a response that did not come from the store.
    pub(crate) fn status(&self) -> CacheStatus {
        CacheStatus { detail: self.detail, ..CacheStatus::forward(self.forward) }
    }

    /// What waiters for the same response have in common.
    pub(crate) fn flight(&self) -> String {
        let part = self.range.as_ref().filter(|_| self.wants_part()).map(RangeRequest::name);
        format!("{}{}{}", self.address.entry(), self.address.lease(), part.unwrap_or_default())
    }

    /// From now on it is about the whole response, for the store.
    pub(crate) fn refresh(&mut self) {
        self.background = true;
        self.forward = Forward::Stale;
        self.seen = self.held.as_ref().map(|held| held.stamp.clone());
        self.asked = RequestDirectives::default();
        (self.range, self.conditions) = (None, Conditions::default());
    }

    /// Whether a session was touched, as far as the request tells.
    pub(crate) fn touched(&self) -> bool {
        self.session.as_ref().is_some_and(SessionTouched::get)
    }

    /// Notes that the request is handed on by this cache.
    pub(crate) fn mark(&self, extensions: &mut Extensions) {
        extensions.insert(HandedOn(self.address.entry().into()));
        self.listen(extensions);
    }

    /// Lets the handler say something of its response.
    pub(crate) fn listen(&self, extensions: &mut Extensions) {
        extensions.insert(self.control().clone());
    }

    /// What the handler says of its response. Made when it is called: a hit has none.
    pub(super) fn control(&self) -> &CacheControl {
        self.control.get_or_init(CacheControl::default)
    }
}
