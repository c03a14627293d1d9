//! Per user.

use crate::{
    marks::UserId,
    rate_limit::by::{KeyBuilder, KeyBy, Missing},
};
use http::request::Parts;

/// The user: see [`user`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct User;

/// Per [`UserId`]; the session is loaded for it if there is one. The policy does not apply to a
/// request without a user, so put one by [`ip`](super::ip) beside it.
#[must_use]
pub fn user() -> User {
    User
}

impl KeyBy for User {
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        let user = request.extensions.get::<UserId>().ok_or(Missing::NotApplicable)?;
        key.push(user.as_str());
        Ok(())
    }

    fn needs_user(&self) -> bool {
        true
    }
}
