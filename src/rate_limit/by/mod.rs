//! Per what a policy counts: the peer's address, the route, the user, a header, or several together.

mod everyone;
mod extension;
mod header;
mod ip;
mod key_builder;
mod route;
mod tuple;
mod user;

pub use self::{
    everyone::{Everyone, everyone},
    extension::{Extension, extension},
    header::{Header, header},
    ip::{Ip, ip},
    key_builder::KeyBuilder,
    route::{Route, route},
    user::{User, user},
};
use http::request::Parts;

/// What a policy's key is made of. Implement it for a key of your own.
///
/// ```
/// use http::request::Parts;
/// use towerkeep::rate_limit::by::{KeyBuilder, KeyBy, Missing};
///
/// struct Tenant;
///
/// impl KeyBy for Tenant {
///     fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
///         let host = request.headers.get("host").and_then(|host| host.to_str().ok());
///         key.push(host.unwrap_or_default());
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a rate limit can be keyed by",
    note = "use one of `towerkeep::rate_limit::by`, a tuple of them, or implement `KeyBy`"
)]
pub trait KeyBy: Send + Sync + 'static {
    /// Adds this part of the request to the key.
    ///
    /// # Errors
    ///
    /// If the request does not have it: see [`Missing`].
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing>;

    /// Whether it reads the [`UserId`](crate::UserId), which may make the session load. Default: no.
    fn needs_user(&self) -> bool {
        false
    }

    /// Whether a part of it is [secret](KeyBuilder::push_secret), so that an operator who names a key
    /// by its parts means the digest. Default: no.
    fn is_secret(&self) -> bool {
        false
    }
}

/// Why a request has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// The policy does not apply to this request.
    NotApplicable,
    /// The server is set up wrongly; the text names the fix. The request is answered with 500 and this
    /// text.
    Misconfigured(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    /// The key of a request, for the tests beside this one.
    pub(super) fn key(by: impl KeyBy, request: Request<()>) -> Result<String, Missing> {
        let mut key = KeyBuilder::default();
        by.write(&request.into_parts().0, &mut key).map(|()| key.finish().into_owned())
    }

    #[test]
    fn a_request_without_a_user_is_not_counted_by_user() {
        assert_eq!(key((route(), user()), Request::new(())), Err(Missing::NotApplicable));
        assert!((route(), user()).needs_user() && !(route(), ip()).needs_user());
    }
}
