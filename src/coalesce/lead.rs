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
use http::{Request, Response, header::CONTENT_LENGTH, response::Parts};
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
    if length > 0 && announced.is_some_and(|announced| announced != length) {
        return Read::Other(ResponseBody::buffered(data, None));
    }
    Read::Whole(data)
}

/// The headers for all, with the length that the answer to a HEAD announces.
fn headers(head: &Parts) -> http::HeaderMap {
    let mut headers = lasting(&head.headers);
    if let Some(length) = head.headers.get(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, length.clone());
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
