//! Names and the hashes of passwords: in memory, or in the same Redis as the sessions.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use axum::http::StatusCode;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{sync::Semaphore, task::spawn_blocking};
use towerkeep::{Backend, StoreError, connection::Connection, connection::redis};

/// A hash takes 19 MiB while it is made; these many are made at a time.
const HASHES_AT_A_TIME: usize = 4;

const SHORTEST_PASSWORD: usize = 8;
const LONGEST_PASSWORD: usize = 200;

/// The hash of a password that nobody has, for names that nobody has: both take the same time.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5J3Mgc2FsdA$\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Who may log in. A cheap clone.
#[derive(Clone)]
pub(super) struct Accounts {
    hashes: Hashes,
    hashing: Arc<Semaphore>,
}

#[derive(Clone)]
enum Hashes {
    Memory(Arc<Mutex<HashMap<String, String>>>),
    Redis(Connection, &'static str),
}

/// Why an account was not made, or not opened.
#[derive(Debug)]
pub(super) enum Refused {
    Name,
    Password,
    Taken,
    /// It does not say which of the two is wrong.
    Wrong,
    Unavailable,
}

impl Accounts {
    pub(super) fn new(backend: &Backend, prefix: &'static str) -> Self {
        let hashes = match backend.connection() {
            Some(connection) => Hashes::Redis(connection.clone(), prefix),
            None => Hashes::Memory(Arc::default()),
        };
        Self { hashes, hashing: Arc::new(Semaphore::new(HASHES_AT_A_TIME)) }
    }

    pub(super) async fn register(&self, name: &str, password: String) -> Result<(), Refused> {
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !(1..=30).contains(&name.len()) || !name.chars().all(legal) {
            return Err(Refused::Name);
        }
        if !(SHORTEST_PASSWORD..=LONGEST_PASSWORD).contains(&password.len()) {
            return Err(Refused::Password);
        }
        let hash = self
            .hashed(move || {
                Some(Argon2::default().hash_password(password.as_bytes()).ok()?.to_string())
            })
            .await
            .ok_or(Refused::Unavailable)?;
        let is_new = match &self.hashes {
            Hashes::Memory(hashes) => {
                let mut hashes = hashes.lock().unwrap_or_else(PoisonError::into_inner);
                let is_new = !hashes.contains_key(name);
                hashes.entry(name.to_owned()).or_insert(hash);
                is_new
            }
            Hashes::Redis(connection, prefix) => {
                let mut set = redis::cmd("SET");
                set.arg(key(prefix, name)).arg(hash).arg("NX");
                connection.query::<Option<String>>(&set).await?.is_some()
            }
        };
        if is_new { Ok(()) } else { Err(Refused::Taken) }
    }

    pub(super) async fn verify(&self, name: &str, password: String) -> Result<(), Refused> {
        if password.len() > LONGEST_PASSWORD {
            return Err(Refused::Wrong);
        }
        let hash = match &self.hashes {
            Hashes::Memory(hashes) => {
                hashes.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
            }
            Hashes::Redis(connection, prefix) => {
                connection.query(redis::cmd("GET").arg(key(prefix, name))).await?
            }
        };
        let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
        let right = self.hashed(move || {
            let hash = PasswordHash::new(&hash).ok()?;
            Argon2::default().verify_password(password.as_bytes(), &hash).ok()
        });
        right.await.ok_or(Refused::Wrong)
    }

    /// Off the threads that serve requests, and not too many at a time.
    async fn hashed<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let _permit = self.hashing.acquire().await.ok()?;
        spawn_blocking(work).await.ok()?
    }
}

fn key(prefix: &str, name: &str) -> String {
    format!("{prefix}:account:{name}")
}

impl Refused {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Name | Self::Password => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Taken => StatusCode::CONFLICT,
            Self::Wrong => StatusCode::UNAUTHORIZED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<StoreError> for Refused {
    fn from(_: StoreError) -> Self {
        Self::Unavailable
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "A name is 1 to 30 letters, digits, dots, dashes and underscores.",
            Self::Password => "A password has 8 to 200 characters.",
            Self::Taken => "That name is taken.",
            Self::Wrong => "Name or password is wrong.",
            Self::Unavailable => "Accounts cannot be read right now. Please try again.",
        })
    }
}
