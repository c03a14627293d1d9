//! Per value of a request extension.

use crate::rate_limit::by::{KeyBuilder, KeyBy, Missing};
use http::request::Parts;
use std::{fmt, marker::PhantomData};

/// A request extension: see [`extension`].
pub struct Extension<T>(PhantomData<fn() -> T>);

/// Per value of an extension that a layer further out has set, such as a tenant's identifier. A
/// request without it is answered with 500: the layers are in the wrong order.
#[must_use]
pub fn extension<T: fmt::Display + Clone + Send + Sync + 'static>() -> Extension<T> {
    Extension(PhantomData)
}

impl<T: fmt::Display + Clone + Send + Sync + 'static> KeyBy for Extension<T> {
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        let value = request.extensions.get::<T>().ok_or(Missing::Misconfigured(
            "a rate limit counts by a request extension that is not set: put the layer that sets it \
             outside the rate limit",
        ))?;
        key.push_display(value);
        Ok(())
    }
}

impl<T> fmt::Debug for Extension<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extension<{}>", std::any::type_name::<T>())
    }
}
