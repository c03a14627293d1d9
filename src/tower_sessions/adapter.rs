//! The trait of tower-sessions, in its versions, over any of the stores.

#[cfg(feature = "redis")]
use crate::tower_sessions::redis::RedisStore;
use crate::{
    backend::Backend,
    store::StoreError,
    telemetry,
    tower_sessions::{
        memory::MemoryStore,
        record::{decode, encode, expires_ms, hash},
        store::RecordStore,
    },
};

/// A random id is taken about never; more than once in a row, something else is wrong.
const TRIES: usize = 3;

macro_rules! implement {
    ($core:ident for $($(#[$when:meta])* $store:ty),+) => { $(
        $(#[$when])*
        #[async_trait::async_trait]
        impl $core::SessionStore for $store {
            async fn create(
                &self,
                record: &mut $core::session::Record,
            ) -> $core::session_store::Result<()> {
                use $core::{session::Id, session_store::Error};

                let value = encode(&record.data, record.expiry_date).map_err(Error::Encode)?;
                let expires_ms = expires_ms(record.expiry_date);
                for _ in 0..TRIES {
                    let hash = hash(&record.id.to_string());
                    let create = RecordStore::create(self, &hash, value.clone(), expires_ms);
                    if create.await.map_err(|error| Error::Backend(failed(&error)))? {
                        return Ok(());
                    }
                    record.id = Id::default();
                }
                let taken = "the session store says that every random id is taken";
                Err(Error::Backend(taken.to_owned()))
            }

            async fn save(
                &self,
                record: &$core::session::Record,
            ) -> $core::session_store::Result<()> {
                use $core::session_store::Error;

                let value = encode(&record.data, record.expiry_date).map_err(Error::Encode)?;
                let hash = hash(&record.id.to_string());
                let save = RecordStore::save(self, &hash, value, expires_ms(record.expiry_date));
                // One that is gone was deleted or has expired, and stays so.
                save.await.map(drop).map_err(|error| Error::Backend(failed(&error)))
            }

            async fn load(
                &self,
                id: &$core::session::Id,
            ) -> $core::session_store::Result<Option<$core::session::Record>> {
                use $core::{session::Record, session_store::Error};

                let load = RecordStore::load(self, &hash(&id.to_string()));
                let Some(value) = load.await.map_err(|error| Error::Backend(failed(&error)))?
                else {
                    return Ok(None);
                };
                let (data, expiry_date) = decode(&value).map_err(Error::Decode)?;
                Ok(Some(Record { id: *id, data, expiry_date }))
            }

            async fn delete(
                &self,
                id: &$core::session::Id,
            ) -> $core::session_store::Result<()> {
                use $core::session_store::Error;

                let delete = RecordStore::delete(self, &hash(&id.to_string()));
                delete.await.map_err(|error| Error::Backend(failed(&error)))
            }
        }
    )+ };
}

#[cfg(feature = "tower-sessions")]
implement!(tower_sessions_core for Backend, MemoryStore, #[cfg(feature = "redis")] RedisStore);

#[cfg(feature = "tower-sessions-0-14")]
implement!(tower_sessions_core_0_14 for Backend, MemoryStore, #[cfg(feature = "redis")] RedisStore);

/// What the layer is told; it answers with 500 and nothing else.
fn failed(error: &StoreError) -> String {
    telemetry::store_failed("tower_sessions", error);
    error.to_string()
}
