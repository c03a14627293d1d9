//! Which language a request prefers, and which one a response has (RFC 9110, sections 8.5, 12.4.2 and
//! 12.5.4).

use http::{
    HeaderMap,
    header::{ACCEPT_LANGUAGE, CONTENT_LANGUAGE},
};

/// The language that is preferred to every other one, in lower case. `None` if there is none, if two
/// are preferred alike, or if it is any.
pub(crate) fn preferred(request: &HeaderMap) -> Option<String> {
    let mut best: Option<(u16, &str)> = None;
    let mut tied = false;
    for line in request.get_all(ACCEPT_LANGUAGE) {
        for member in line.to_str().ok()?.split(',').map(str::trim) {
            if member.is_empty() {
                continue;
            }
            let (range, weight) = weighed(member)?;
            match best {
                Some((held, _)) if weight < held => {}
                Some((held, other)) if weight == held => {
                    tied |= !other.eq_ignore_ascii_case(range);
                }
                _ => (best, tied) = (Some((weight, range)), false),
            }
        }
    }
    let (weight, range) = best.filter(|_| !tied)?;
    (weight > 0 && is_tag(range)).then(|| range.to_ascii_lowercase())
}

/// The only language that a response is for, in lower case.
pub(crate) fn of_response(response: &HeaderMap) -> Option<String> {
    let mut lines = response.get_all(CONTENT_LANGUAGE).iter();
    let (line, more) = (lines.next()?.to_str().ok()?.trim(), lines.next().is_some());
    (!more && is_tag(line)).then(|| line.to_ascii_lowercase())
}

/// A range and its weight in thousandths.
fn weighed(member: &str) -> Option<(&str, u16)> {
    let Some((range, parameter)) = member.split_once(';') else { return Some((member, 1_000)) };
    let (name, value) = parameter.trim().split_once('=')?;
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = fraction.bytes().all(|byte| byte.is_ascii_digit()) && fraction.len() <= 3;
    let fraction = format!("{fraction:0<3}").parse().ok().filter(|_| digits)?;
    let weight = match whole {
        "0" => fraction,
        "1" if fraction == 0 => 1_000,
        _ => return None,
    };
    name.eq_ignore_ascii_case("q").then_some((range.trim(), weight))
}

fn is_tag(text: &str) -> bool {
    let part = |part: &str| {
        (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    text.split('-').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_language_is_preferred_or_none() {
        for (line, expected) in [
            ("de", Some("de")),
            ("fr;q=0.5, DE-at;q=1.0", Some("de-at")),
            ("en;q=0.7,de ; q=0.701", Some("de")),
            ("de, de;q=0.1, *;q=0.5", Some("de")),
            ("de, de", Some("de")),
            ("en, de", None),
            ("en;q=0.5, de;q=0.50", None),
            ("*, de;q=0.9", None),
            ("de;q=0", None),
            ("de;q=2, en;q=0.1", None),
            ("de;q=0.1234", None),
            ("de;x=1", None),
            ("d e", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_LANGUAGE, line.parse().unwrap())]);
            assert_eq!(preferred(&headers).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn a_response_has_one_language_or_none() {
        for (line, expected) in [("De", Some("de")), ("de, en", None), ("", None)] {
            let headers = HeaderMap::from_iter([(CONTENT_LANGUAGE, line.parse().unwrap())]);
            assert_eq!(of_response(&headers).as_deref(), expected, "{line}");
        }
        assert_eq!(of_response(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "[a-z*;=q0-9., -]{0,40}|[ -~]{0,40}") {
            let _ = preferred(&HeaderMap::from_iter([(ACCEPT_LANGUAGE, line.parse().unwrap())]));
        }
    }
}
