//! The names of fields, with or without the type of what they hold.

use crate::session::error::Error;
use std::{fmt, marker::PhantomData};

/// A field's name and the type of its value, said once:
///
/// ```
/// use towerkeep::session::Key;
///
/// const VISITS: Key<u64> = Key::new("visits");
/// ```
///
/// A name is not empty and does not begin with a dot; those names are the store's own.
pub struct Key<T: ?Sized> {
    name: &'static str,
    holds: PhantomData<fn() -> Box<T>>,
}

impl<T: ?Sized> Key<T> {
    /// A key of this name.
    ///
    /// # Panics
    ///
    /// If the name is empty or begins with a dot; in a `const`, that is an error at compile time.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(
            is_legal(name),
            "a session field's name is not empty and does not begin with a dot"
        );
        Self { name, holds: PhantomData }
    }

    /// The name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T: ?Sized> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Key<T> {}

impl<T: ?Sized> AsRef<str> for Key<T> {
    fn as_ref(&self) -> &str {
        self.name
    }
}

impl<T: ?Sized> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.name)
    }
}

/// What names a field that holds a `T`: a [`Key<T>`], or a string for any `T`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a session field of type `{T}`",
    note = "use a `Key<{T}>` or a string"
)]
pub trait Field<T: ?Sized> {
    /// The field's name.
    fn name(&self) -> &str;
}

impl<T: ?Sized> Field<T> for Key<T> {
    fn name(&self) -> &str {
        self.name
    }
}

impl<T: ?Sized> Field<T> for &str {
    fn name(&self) -> &str {
        self
    }
}

impl<T: ?Sized> Field<T> for &String {
    fn name(&self) -> &str {
        self
    }
}

/// The name, if a field may have it.
pub(crate) fn legal(name: &str) -> Result<&str, Error> {
    if is_legal(name) { Ok(name) } else { Err(Error::illegal_name(name)) }
}

const fn is_legal(name: &str) -> bool {
    matches!(name.as_bytes(), [first, ..] if *first != b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_stores_own_are_not_for_data() {
        assert!(legal("cart").is_ok() && legal("a.b").is_ok());
        assert!(legal("").is_err() && legal(".v").is_err());
    }

    #[test]
    #[should_panic(expected = "dot")]
    fn a_key_is_refused_where_it_is_made() {
        let _ = Key::<u8>::new(".v");
    }
}
