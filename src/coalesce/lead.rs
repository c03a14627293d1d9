//! The way of a request that may be coalesced: to the handler, or to the answer of another.

use crate::{
    body::ResponseBody,
    coalesce::{
        key::Asked,
        layer::Config,
        policy,
        seat::{Landed, Seat, seat},
    },
    fleeting::lasting,
    marks::SessionTouched,
    snapshot::Snapshot,
};
use bytes::Bytes;
use http::{
    Request, Response,
    header::{AGE, CONTENT_LENGTH, DATE},
    response::Parts,
};
use http_body::{Body, Frame};
use std::{future::poll_fn, sync::Arc};
use tokio::time::Instant;
use tower::Service;

/// The mark, in a response's extensions, of an answer that was made for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Coalesced;

/// Answers the request.
pub(crate) async fn coalesce<S, Q, R>(
    config: Arc<Config>,
    mut inner: S,
    request: Request<Q>,
    asked: Asked,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    S: Service<Request<Q>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    let lead = match seat(&config, asked.id(), Instant::now() + config.wait).await {
        Seat::Lead(lead) => lead,
        Seat::Answer(snapshot) => return Ok(shared(&snapshot)),
        Seat::Alone => return inner.call(request).await.map(|made| made.map(ResponseBody::inner)),
    };
    let session = request.extensions().get::<SessionTouched>().cloned();
    // An error or a panic ends here, or the client leaves: the lead is dropped, and another goes.
    let response = inner.call(request).await?;
    let (head, body) = response.into_parts();
    let touched = session.is_some_and(|session| session.get())
        || SessionTouched::in_extensions(&head.extensions);
    if touched || !policy::is_shared(&head, &asked) || !is_short(&body, config.answer_limit) {
        lead.land(&config, Landed::Unshared);
        return Ok(Response::from_parts(head, ResponseBody::inner(body)));
    }
    Ok(match read(&head, body).await {
        Read::Whole(data) => {
            let headers = headers(&head);
            let snapshot = Snapshot { status: head.status, headers, body: data.clone() };
            lead.land(&config, Landed::Answer(Arc::new(snapshot)));
            Response::from_parts(head, ResponseBody::full(data))
        }
        Read::Other(body) => {
            lead.land(&config, Landed::Unshared);
            Response::from_parts(head, body)
        }
        Read::Broken(body) => Response::from_parts(head, body),
    })
}

/// Whether the whole body is announced, and within the limit. A body of unknown length may be a stream
/// that its client wants to see as it comes.
fn is_short<B: Body>(body: &B, limit: usize) -> bool {
    body.size_hint().exact().is_some_and(|length| length <= limit as u64)
}

enum Read<B: Body> {
    Whole(Bytes),
    /// With trailers, or longer or shorter than announced.
    Other(ResponseBody<B>),
    Broken(ResponseBody<B>),
}

/// Reads a body of known length to its end.
async fn read<B: Body<Data = Bytes>>(head: &Parts, body: B) -> Read<B> {
    let hint = body.size_hint();
    let (mut chunks, mut length) = (Vec::new(), 0);
    let mut body = Box::pin(body);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) if data.is_empty() => {}
            Ok(Ok(data)) => {
                length += data.len();
                chunks.push(data);
                if length as u64 > hint.lower() {
                    return Read::Other(ResponseBody::resumed(chunks, body));
                }
            }
            Ok(Err(frame)) => {
                let data = ResponseBody::<B>::joined(chunks, length);
                let trailers = frame.into_trailers().ok();
                return Read::Other(ResponseBody::buffered(data, trailers));
            }
            Err(error) => {
                return Read::Broken(ResponseBody::broken(chunks, length, error, hint).await);
            }
        }
    }
    let data = ResponseBody::<B>::joined(chunks, length);
    let announced = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|value| value.parse::<usize>().ok());
    // The answer to a HEAD announces what it has not.
    let cut = length > 0 && announced.is_some_and(|announced| announced != length);
    if cut || length as u64 != hint.lower() {
        return Read::Other(ResponseBody::buffered(data, None));
    }
    Read::Whole(data)
}

/// The headers for all, with the length that the answer to a HEAD announces, and with its age: it is no
/// older for those who waited for it.
fn headers(head: &Parts) -> http::HeaderMap {
    let mut headers = lasting(&head.headers);
    for name in [CONTENT_LENGTH, AGE, DATE] {
        if let Some(value) = head.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers
}

fn shared<B: Body>(snapshot: &Snapshot) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::full(snapshot.body.clone()));
    *response.status_mut() = snapshot.status;
    *response.headers_mut() = snapshot.headers.clone();
    response.extensions_mut().insert(Coalesced);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Empty, Full};
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    /// A body that ends where another does, and says that it is as long as the hint.
    struct Cut(Full<Bytes>, u64);

    impl Body for Cut {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(self.1)
        }
    }

    fn announcing(length: &str) -> Parts {
        Response::builder().header(CONTENT_LENGTH, length).body(()).unwrap().into_parts().0
    }

    #[tokio::test]
    async fn an_answer_that_is_not_as_long_as_it_says_is_its_clients_alone() {
        let head = || Response::new(()).into_parts().0;
        let body = |says| Cut(Full::from("half"), says);
        for says in [3, 5, 8] {
            assert!(matches!(read(&head(), body(says)).await, Read::Other(_)), "{says}");
        }
        assert!(matches!(read(&head(), body(4)).await, Read::Whole(data) if data == "half"));
        assert!(matches!(read(&announcing("8"), body(4)).await, Read::Other(_)));
        let head = read(&announcing("8"), Empty::<Bytes>::new()).await;
        assert!(matches!(head, Read::Whole(_)), "as the answer to a HEAD");
    }
}
