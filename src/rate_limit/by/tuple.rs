//! Several of them together.

use crate::rate_limit::by::{KeyBuilder, KeyBy, Missing};
use http::request::Parts;

macro_rules! key_by_all {
    ($($name:ident),+) => {
        impl<$($name: KeyBy),+> KeyBy for ($($name,)+) {
            fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
                #[allow(non_snake_case)] // the type parameters' names serve as variables
                let ($($name,)+) = self;
                $($name.write(request, key)?;)+
                Ok(())
            }

            fn needs_user(&self) -> bool {
                #[allow(non_snake_case)]
                let ($($name,)+) = self;
                $($name.needs_user())||+
            }

            fn is_secret(&self) -> bool {
                #[allow(non_snake_case)]
                let ($($name,)+) = self;
                $($name.is_secret())||+
            }
        }
    };
}

key_by_all!(A, B);
key_by_all!(A, B, C);
key_by_all!(A, B, C, D);
