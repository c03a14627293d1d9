//! Refuses what another site makes a browser send.
//!
//! `SameSite=Lax` keeps the cookie out of other sites' forms already. This is the second lock, and the
//! one for requests that need no cookie: nobody is logged in to an attacker's account by a form elsewhere.

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

pub(super) async fn same_origin(request: Request, next: Next) -> Response {
    if request.method().is_safe() || is_own(request.headers(), request.uri()) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "This request comes from another site.\n").into_response()
}

/// Browsers say where a form was. A client that says nothing is not one that a page could have
/// talked into it.
fn is_own(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    // Behind a proxy that rewrites Host, compare with the name of the site instead.
    let host = text("host").or_else(|| uri.authority().map(|authority| authority.as_str()));
    origin.split_once("://").is_some_and(|(_, from)| Some(from) == host)
}
