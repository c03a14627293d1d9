//! What happens after the handler: the session is saved, then the response goes out.

use crate::{
    body::ResponseBody,
    session::{
        cookie::CookieSettings, error::Error, handle::Finishing, lazy_session::LazySession,
        state::CookieChange,
    },
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, COOKIE, SET_COOKIE, VARY},
};
use http_body::Body;
use pin_project_lite::pin_project;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// The response of a [`SessionService`](super::SessionService).
    pub struct ResponseFuture<F, R, E> {
        session: LazySession,
        #[pin]
        state: State<F, R, E>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R, E> {
        Inner { #[pin] future: F },
        Finish { finishing: Finishing, answer: Option<Result<Response<R>, E>> },
    }
}

impl<F, R, E> ResponseFuture<F, R, E> {
    pub(crate) fn new(future: F, session: LazySession) -> Self {
        Self { session, state: State::Inner { future } }
    }
}

impl<F, R, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Inner { future } => {
                    let answer = ready!(future.poll(cx));
                    // An error of the service ends the request as a response of status 500 does.
                    let failed = StatusCode::INTERNAL_SERVER_ERROR;
                    let status = answer.as_ref().map_or(failed, Response::status);
                    match this.session.finish(status) {
                        None => return Poll::Ready(respond(this.session, answer, Ok(()))),
                        Some(finishing) => {
                            this.state.set(State::Finish { finishing, answer: Some(answer) });
                        }
                    }
                }
                StateProj::Finish { finishing, answer } => {
                    let saved = ready!(finishing.as_mut().poll(cx));
                    let answer =
                        answer.take().expect("a response future is polled to its end once");
                    return Poll::Ready(respond(this.session, answer, saved));
                }
            }
        }
    }
}

/// A session that could not be saved is not answered as if it were.
fn respond<R: Body<Data = Bytes>, E>(
    session: &LazySession,
    answer: Result<Response<R>, E>,
    saved: Result<(), Error>,
) -> Result<Response<ResponseBody<R>>, E> {
    let response = answer?;
    let mut response = match saved {
        Ok(()) => {
            session.slide();
            response.map(ResponseBody::inner)
        }
        Err(error) => session.config().rejection.respond(error),
    };
    tell(session, &mut response);
    Ok(response)
}

/// Says what the response owes to the session: to the client, to caches on the way, and to the
/// layers further out.
fn tell<B>(session: &LazySession, response: &mut Response<B>) {
    let cookies = &session.config().cookie;
    let cookie = match session.cookie() {
        Some(CookieChange::Set(token, None)) => Some(cookies.set(&token)),
        Some(CookieChange::Set(token, max_age)) => {
            Some(CookieSettings { max_age, ..cookies.clone() }.set(&token))
        }
        Some(CookieChange::Remove) => Some(cookies.removal()),
        None => None,
    };
    if cookie.is_none() && !session.touched().get() {
        return;
    }
    session.touched().set();
    response.extensions_mut().insert(session.touched().clone());
    let headers = response.headers_mut();
    vary_by_cookie(headers);
    let cache_control = if cookie.is_some() { "private, no-store" } else { "private" };
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static(cache_control));
    if let Some(cookie) = cookie {
        headers.append(SET_COOKIE, cookie);
    }
}

fn vary_by_cookie(headers: &mut HeaderMap) {
    let said = headers.get_all(VARY).iter().any(|line| {
        let names = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.into_iter().any(|name| name == b"*" || name.eq_ignore_ascii_case(b"cookie"))
    });
    if !said {
        headers.append(VARY, HeaderValue::from_name(COOKIE));
    }
}

impl<F, R, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varied(lines: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(VARY, HeaderValue::from_static(line));
        }
        vary_by_cookie(&mut headers);
        headers.get_all(VARY).iter().map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn vary_names_the_cookie_once() {
        assert_eq!(varied(&[]), ["cookie"]);
        assert_eq!(varied(&["Accept, Cookie"]), ["Accept, Cookie"]);
        assert_eq!(varied(&["Accept", "*"]), ["Accept", "*"]);
        assert_eq!(varied(&["X-Cookie"]), ["X-Cookie", "cookie"]);
    }
}
