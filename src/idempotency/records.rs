//! What an operator does with single records: look, forget, settle.

use crate::{
    idempotency::{
        fingerprint::is_content_key,
        layer::{Config, Scope},
        store::{IdempotencyStore, Look, Settled},
        stored::Stored,
    },
    key::digest,
    store::StoreError,
};
use bytes::Bytes;
use http::{Response, StatusCode};
use std::{fmt, sync::Arc};

/// The records of a layer, for an operator's page or command: made by
/// [`IdempotencyLayer::records`](crate::idempotency::IdempotencyLayer::records). A cheap clone.
///
/// A record is named as its requests name it: by its scope (the text of the
/// [`UserId`](crate::UserId), or what the layer's
/// [`scope`](crate::idempotency::IdempotencyLayer::scope) returns; of a layer without scopes, any
/// text) and by the key, as [`Idempotent::key`](crate::idempotency::Idempotent::key) has it, without
/// quotes. Each verb is one round trip.
///
/// # An orphan
///
/// is a request whose handler vanished. With [`Orphan::Reject`](crate::idempotency::Orphan::Reject)
/// every retry gets 409 until the record ends; somebody has to look what the handler did, and then
///
/// - it had its effect: [`force_complete`](Records::force_complete) with the answer that the client
///   should have had; the retries get it;
/// - it had none: [`forget`](Records::forget); the next retry runs as the first one.
///
/// ```
/// use bytes::Bytes;
/// use http::Response;
/// use towerkeep::{Backend, idempotency::{IdempotencyLayer, Settled, Standing}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), towerkeep::StoreError> {
/// let layer = IdempotencyLayer::new(Backend::memory());
/// let records = layer.records();
///
/// let key = "8e03978e-40d5-43dd-bc93-6b82f0d5b0e5";
/// let standing = records.get("alice", key).await?.map(|record| record.state);
/// if standing == Some(Standing::Orphan) {
///     // The payment service says that the card was charged.
///     let receipt = Response::new(Bytes::from("charged 12 EUR"));
///     assert_eq!(records.force_complete("alice", key, receipt).await?, Settled::Settled);
/// }
/// # assert_eq!(standing, None);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Each verb returns the store's errors, [`StoreError::is_corrupt`] for a record that another version
/// of the crate has written (which can be forgotten), and [`StoreError::is_refused`] from a store of
/// your own that has not the verb.
#[derive(Clone)]
pub struct Records(Arc<Config>);

/// What a complete record holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Recorded {
    /// The answer, without what was meant for the first asker only.
    Answer(Response<Bytes>),
    /// That the request was answered with this status, and not with what.
    Tombstone(StatusCode),
}

impl Records {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self(config)
    }

    /// Where a record stands; `None` if there is none. Without the answer: see
    /// [`answer`](Records::answer).
    ///
    /// # Errors
    ///
    /// As [above](Records#errors).
    pub async fn get(&self, scope: &str, key: &str) -> Result<Option<Look>, StoreError> {
        self.0.store.look(&self.id(scope, key), false).await
    }

    /// What is recorded, which may be as private as any answer to its client; `None` unless the record
    /// is complete. [`StoreError::is_corrupt`] if it is damaged.
    ///
    /// # Errors
    ///
    /// As [above](Records#errors).
    pub async fn answer(&self, scope: &str, key: &str) -> Result<Option<Recorded>, StoreError> {
        let look = self.0.store.look(&self.id(scope, key), true).await?;
        let Some(outcome) = look.and_then(|look| look.outcome) else { return Ok(None) };
        Ok(Some(match Stored::decode(outcome)? {
            Stored::Tombstone { status } => Recorded::Tombstone(status),
            Stored::Response { snapshot, .. } => {
                let mut response = Response::new(snapshot.body);
                *response.status_mut() = snapshot.status;
                *response.headers_mut() = snapshot.headers;
                Recorded::Answer(response)
            }
        }))
    }

    /// Removes a record, so that the next request with its key runs as the first one; `false` if there
    /// is none. Its fence will be higher all the same.
    ///
    /// **Dangerous** while a handler holds it ([`Standing::Running`](crate::idempotency::Standing)): the
    /// handler goes on, and the next one begins beside it.
    ///
    /// # Errors
    ///
    /// As [above](Records#errors).
    pub async fn forget(&self, scope: &str, key: &str) -> Result<bool, StoreError> {
        self.0.store.forget(&self.id(scope, key)).await
    }

    /// Gives an orphan its answer, which every retry gets as a replay for
    /// [`retain`](crate::idempotency::IdempotencyLayer::retain) from now, or, if it is told by its content,
    /// for the window. Nothing else is changed by it:
    /// not a record that a handler holds, nor one that has an answer, nor the lack of one. `Set-Cookie`
    /// and the like are dropped, as they are from the answer of a handler.
    ///
    /// # Errors
    ///
    /// As [above](Records#errors); [`StoreError::is_config`] if the answer is larger than
    /// [`stored_limit`](crate::idempotency::IdempotencyLayer::stored_limit).
    pub async fn force_complete(
        &self,
        scope: &str,
        key: &str,
        answer: Response<Bytes>,
    ) -> Result<Settled, StoreError> {
        let (head, body) = answer.into_parts();
        let limit = self.0.stored_limit;
        let outcome = Stored::response(&head, body, None).encode_whole(limit).ok_or_else(|| {
            StoreError::config(format!(
                "the answer is larger than the {limit} bytes that the layer stores; give a shorter \
                 one, or raise `stored_limit`"
            ))
        })?;
        let (_, kept) = self.0.terms_of(is_content_key(key));
        self.0.store.settle(&self.id(scope, key), outcome, kept).await
    }

    fn id(&self, scope: &str, key: &str) -> String {
        let of = self.0.scope_of(is_content_key(key));
        let scope = if matches!(of, Scope::Everyone) { "" } else { scope };
        digest([of.kind().as_bytes(), scope.as_bytes(), key.as_bytes()])
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Records")
    }
}
