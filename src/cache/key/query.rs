//! What a key has of a query.

use std::borrow::Cow;

/// Which parameters of a query are part of a [key](crate::cache::CacheKey::query), and in which order.
///
/// The handler gets the query as the client sent it. So it must not answer by a parameter that the key
/// leaves out, nor by the order that it makes the same: whoever sends such a request first decides what
/// all others get.
///
/// ```
/// use towerkeep::cache::{CacheKey, Query};
///
/// // /p?b=2&a=1&utm_source=x is the same as /p?a=1&b=2
/// let key = CacheKey::default().query(Query::sorted().drop(["utm_*", "fbclid"]));
/// // /p?page=2&x=1 is the same as /p?page=2
/// let key = CacheKey::default().query(Query::exact().keep(["page"]));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Query {
    sorted: bool,
    kept: Option<Vec<Pattern>>,
    dropped: Vec<Pattern>,
}

/// A name, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Name(Vec<u8>),
    Prefix(Vec<u8>),
}

impl Query {
    /// The query as it was sent, byte for byte.
    pub fn exact() -> Self {
        Self::default()
    }

    /// The parameters in the order of their names: `b=2&a=1` is the same as `a=1&b=2`. Those of one name
    /// stay in the order in which they were sent. A query with a `;` in it, which some frameworks take for
    /// another `&`, stays as it was sent.
    pub fn sorted() -> Self {
        Self { sorted: true, ..Self::default() }
    }

    /// Leaves the parameters with these names out. A `*` at the end stands for any rest: `utm_*`.
    ///
    /// A name is compared as a form is read: percent-decoded, a `+` being a space. A parameter with a
    /// `;` in it, which some frameworks take for another `&`, is never left out. Default: none.
    ///
    /// # Panics
    ///
    /// If there is a `*` anywhere but at the end of a name.
    pub fn drop<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.dropped.extend(names.into_iter().map(|name| Pattern::new(name.as_ref())));
        self
    }

    /// Leaves all parameters out but those with these names, which are written as for
    /// [`drop`](Query::drop). Without a name, the query is no part of the key at all. Called again, it
    /// adds more. Default: all are in.
    ///
    /// # Panics
    ///
    /// If there is a `*` anywhere but at the end of a name.
    pub fn keep<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let kept = self.kept.get_or_insert_default();
        kept.extend(names.into_iter().map(|name| Pattern::new(name.as_ref())));
        self
    }

    /// The path and query as they are in the key.
    pub(crate) fn of<'a>(&self, target: &'a str) -> Cow<'a, str> {
        if self.is_exact() {
            return target.into();
        }
        let Some((path, query)) = target.split_once('?') else { return target.into() };
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        let named = parameters.map(|parameter| (name(parameter), parameter));
        let mut kept: Vec<_> =
            named.filter(|(name, parameter)| self.keeps(name, parameter)).collect();
        // Where a `;` is another `&`, sorting would change the order of what is behind it.
        if self.sorted && !kept.iter().any(|(_, parameter)| parameter.contains(';')) {
            kept.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        let mut told = path.to_owned();
        for (at, (_, parameter)) in kept.into_iter().enumerate() {
            told.push(if at == 0 { '?' } else { '&' });
            told.push_str(parameter);
        }
        told.into()
    }

    fn is_exact(&self) -> bool {
        !self.sorted && self.kept.is_none() && self.dropped.is_empty()
    }

    fn keeps(&self, name: &[u8], parameter: &str) -> bool {
        let named = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.fits(name));
        let kept = self.kept.as_deref().is_none_or(named) && !named(&self.dropped);
        kept || parameter.contains(';')
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        assert!(
            !name.contains('*'),
            "a cache key's query was given the name {text:?}; a `*` may only stand at its end, as in utm_*"
        );
        if is_prefix { Self::Prefix(name.into()) } else { Self::Name(name.into()) }
    }

    fn fits(&self, name: &[u8]) -> bool {
        match self {
            Self::Name(whole) => name == whole,
            Self::Prefix(prefix) => name.starts_with(prefix),
        }
    }
}

/// The name of a parameter as a form is read.
fn name(parameter: &str) -> Cow<'_, [u8]> {
    let name = parameter.split('=').next().unwrap_or_default().as_bytes();
    match name.contains(&b'+') {
        true => {
            let spaced = name.iter().map(|&byte| if byte == b'+' { b' ' } else { byte });
            decoded(&spaced.collect::<Vec<_>>()).into_owned().into()
        }
        false => decoded(name),
    }
}

/// The same bytes without percent-encoding.
pub(super) fn decoded(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.contains(&b'%') {
        return name.into();
    }
    let (mut rest, mut read) = (name, Vec::with_capacity(name.len()));
    while let [first, more @ ..] = rest {
        let (byte, left) = match (first, more) {
            (b'%', [high, low, left @ ..]) => match hex(*high).zip(hex(*low)) {
                Some((high, low)) => (high << 4 | low, left),
                None => (b'%', more),
            },
            (&other, _) => (other, more),
        };
        read.push(byte);
        rest = left;
    }
    read.into()
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_query_is_as_it_was_sent_until_another_is_asked_for() {
        for target in ["/p", "/p?", "/p?b&a", "/p?a=1&&b=2", "/p?a?b"] {
            assert_eq!(Query::exact().of(target), target);
        }
    }

    #[test]
    fn parameters_are_sorted_by_name_and_stay_in_order_within_one() {
        for (sent, told) in [
            ("/p", "/p"),
            ("/p?", "/p"),
            ("/p?b=2&a=1", "/p?a=1&b=2"),
            ("/p?a=2&a=1", "/p?a=2&a=1"),
            ("/p?b&a=2&&a=1&", "/p?a=2&a=1&b"),
            // The same name for whoever reads it, so in the order in which that reads them.
            ("/p?b=0&a=2&%61=1", "/p?a=2&%61=1&b=0"),
            ("/p?%61=1&a=2", "/p?%61=1&a=2"),
            ("/p?b=x?y&a", "/p?a&b=x?y"),
            // Where a `;` is another `&`, the one has a=2 first, the other a=1.
            ("/p?b=1;a=2&a=1", "/p?b=1;a=2&a=1"),
            ("/p?b&a=1&&b=1;a=2", "/p?b&a=1&b=1;a=2"),
        ] {
            assert_eq!(Query::sorted().of(sent), told, "{sent}");
        }
    }

    #[test]
    fn parameters_are_left_out_by_name_and_by_prefix() {
        let query = Query::exact().drop(["utm_*", "gclid"]);
        for (sent, told) in [
            ("/p?utm_source=a&b=1&utm_medium=c", "/p?b=1"),
            ("/p?utm_source=a", "/p"),
            ("/p?utm%5fsource=a&gclid=1&gclid2=2", "/p?gclid2=2"),
            ("/p?%75tm_=1&UTM_=2&utm=3", "/p?UTM_=2&utm=3"),
            // No name at all, and none that anybody could read.
            ("/p?=1&%zz=2&%=3&%6=4", "/p?=1&%zz=2&%=3&%6=4"),
        ] {
            assert_eq!(query.of(sent), told, "{sent}");
        }
        assert_eq!(query.drop(["b"]).of("/p?b=1&gclid=2&c"), "/p?c");
    }

    #[test]
    fn only_what_is_named_is_kept() {
        let query = Query::sorted().keep(["page", "filter_*"]).keep(["a b"]).drop(["filter_x"]);
        for (sent, told) in [
            ("/p?page=2&x=1", "/p?page=2"),
            ("/p?p%61ge=2&page=1", "/p?p%61ge=2&page=1"),
            ("/p?x=1&filter_b=1&filter_a=2&filter_x=3", "/p?filter_a=2&filter_b=1"),
            ("/p?a+b=1&a%20b=2&a=3", "/p?a+b=1&a%20b=2"),
        ] {
            assert_eq!(query.of(sent), told, "{sent}");
        }
        assert_eq!(Query::exact().keep([""; 0]).of("/p?a=1&b"), "/p");
    }

    #[test]
    fn what_may_hide_another_parameter_is_never_left_out() {
        let query = Query::exact().drop(["utm_*"]);
        assert_eq!(query.of("/p?utm_a=1;page=2"), "/p?utm_a=1;page=2");
        assert_eq!(Query::exact().keep(["page"]).of("/p?x;page=2&y"), "/p?x;page=2");
    }

    #[test]
    #[should_panic(expected = "\"utm*source\"; a `*` may only stand at its end")]
    fn a_star_in_the_middle_is_refused() {
        let _ = Query::exact().drop(["utm*source"]);
    }

    proptest! {
        #[test]
        fn what_is_told_is_told_the_same_again(query in "[ab%6;&=+?]{0,24}") {
            let rule = Query::sorted().drop(["b*"]);
            let target = format!("/p?{query}");
            let once = rule.of(&target).into_owned();
            prop_assert_eq!(&rule.of(&once), &once);
        }

        #[test]
        fn sorting_loses_nothing(parameters in proptest::collection::vec("[a-c]=[0-9]", 1..8)) {
            let told = Query::sorted().of(&format!("/?{}", parameters.join("&"))).into_owned();
            let mut sent = parameters;
            let mut told: Vec<_> = told[2..].split('&').map(str::to_owned).collect();
            sent.sort();
            told.sort();
            prop_assert_eq!(sent, told);
        }
    }
}
