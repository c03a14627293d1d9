//! Who leads, and which answers are shared. No I/O and no clock: the scripts are the first part in Lua.

use crate::coalesce::{
    key::Asked,
    store::{Flight, Joined},
};
use bytes::Bytes;
use http::{
    HeaderMap, StatusCode,
    header::{CACHE_CONTROL, SET_COOKIE, VARY},
    response::Parts,
};
use std::time::Duration;

/// `join`, where `leader` is who leads and how long it does yet, and `landed` is what the one who is
/// followed has left.
pub(crate) fn join(
    flight: &Flight,
    leader: Option<(&str, Duration)>,
    landed: Option<Bytes>,
) -> Joined {
    match (landed, leader) {
        (Some(outcome), _) => Joined::Landed(outcome),
        (None, Some((leader, left))) if leader != flight.token() => {
            Joined::Follow { leader: leader.to_owned(), left }
        }
        (None, _) => Joined::Lead,
    }
}

/// Whether a `renew`, a `land` or a `leave` by this flight may change anything.
pub(crate) fn leads(flight: &Flight, leader: Option<&str>) -> bool {
    leader == Some(flight.token())
}

/// Whether those who asked for the same may have this answer.
pub(crate) fn is_shared(head: &Parts, asked: &Asked) -> bool {
    let fleeting = matches!(head.status.as_u16(), 401 | 403 | 407 | 408 | 425 | 429);
    !head.status.is_informational()
        && head.status != StatusCode::SWITCHING_PROTOCOLS
        && !fleeting
        // It was minted for the one who leads.
        && !head.headers.contains_key(SET_COOKIE)
        && !forbids(&head.headers, asked.is_identified())
        && tokens(&head.headers, &VARY).all(|name| asked.differs_by(&name))
}

/// Whether `Cache-Control` says that the answer is for one. `private` is for one user, whom all who
/// share it are, if they are known at all.
fn forbids(headers: &HeaderMap, identified: bool) -> bool {
    tokens(headers, &CACHE_CONTROL).any(|directive| {
        let name = directive.split('=').next().unwrap_or_default().trim();
        name == "no-store" || name == "private" && !identified
    })
}

/// The parts of a list, in lower case.
fn tokens(headers: &HeaderMap, name: &http::HeaderName) -> impl Iterator<Item = String> {
    let values = headers.get_all(name).iter();
    let text = values.map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    let list: Vec<String> = text.collect();
    let parts = list
        .into_iter()
        .flat_map(|value| value.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>());
    parts.filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};

    const LEFT: Duration = Duration::from_secs(1);

    #[test]
    fn one_leads_the_others_follow_and_only_followers_get_what_it_leaves() {
        let flight = Flight::new("id", "ours");
        let follow = Joined::Follow { leader: "theirs".into(), left: LEFT };
        assert_eq!(join(&flight, None, None), Joined::Lead);
        assert_eq!(join(&flight, Some(("ours", LEFT)), None), Joined::Lead, "asked again");
        assert_eq!(join(&flight, Some(("theirs", LEFT)), None), follow);
        let landed = join(&flight, Some(("theirs", LEFT)), Some("x".into()));
        assert_eq!(landed, Joined::Landed("x".into()));
        assert!(leads(&flight, Some("ours")));
        assert!(!leads(&flight, Some("theirs")) && !leads(&flight, None));
    }

    fn shared(status: u16, headers: &[(&str, &str)], cookie: bool) -> bool {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let mut request = Request::get("/");
        if cookie {
            request = request.header("cookie", "id=1");
        }
        let request = request.body(()).unwrap().into_parts().0;
        let asked = Asked::of(&request, None, None).unwrap();
        is_shared(&response.body(()).unwrap().into_parts().0, &asked)
    }

    #[test]
    fn what_is_for_one_alone_is_not_shared() {
        for (status, headers) in [
            (200, &[("set-cookie", "id=1")][..]),
            (200, &[("cache-control", "no-store")]),
            (200, &[("cache-control", "max-age=1, No-Store")]),
            (200, &[("cache-control", "private")]),
            (200, &[("cache-control", "private=\"x\"")]),
            (200, &[("vary", "*")]),
            (200, &[("vary", "Accept, X-Request-Id")]),
            (401, &[]),
            (403, &[]),
            (429, &[]),
            (101, &[]),
        ] {
            assert!(!shared(status, headers, false), "{status} {headers:?}");
        }
        for (status, headers) in
            [(200, &[][..]), (404, &[]), (500, &[]), (304, &[]), (200, &[("vary", "Accept")])]
        {
            assert!(shared(status, headers, false), "{status} {headers:?}");
        }
        assert!(shared(200, &[("cache-control", "private")], true), "all of them are one user");
        assert!(!shared(200, &[("cache-control", "no-store")], true));
    }

    #[test]
    fn what_the_application_adds_does_not_make_strangers_one_user() {
        let request = Request::get("/").body(()).unwrap().into_parts().0;
        let asked = Asked::of(&request, None, Some("DE")).unwrap();
        let response = Response::builder().header("cache-control", "private").body(()).unwrap();
        assert!(!is_shared(&response.into_parts().0, &asked));
    }
}
