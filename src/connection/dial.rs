//! Makes links: opens a stream, logs in, and sees one PING answered.

use crate::{
    connection::{
        config::Config,
        error,
        link::{Driver, Link},
        topology::{LIBRARY, Login, Role, Stream, Topology, VERSION},
    },
    store::StoreError,
};
use redis::{AsyncConnectionConfig, Cmd, ServerError, Value, aio::MultiplexedConnection};
use std::{future::Future, sync::Arc, time::Instant};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Calls that may wait for the driver to take them. More would only wait longer.
const QUEUE: usize = 1024;

/// Makes links, as often as needed.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) topology: Arc<dyn Topology>,
    pub(super) config: Arc<Config>,
}

impl Dialer {
    /// One attempt, within the connect timeout.
    pub(super) async fn dial(&self) -> Result<Link, StoreError> {
        let dialer = self.clone();
        isolated(async move {
            let (connection, driver) = dialer.connect().await?;
            Ok(Link::new(connection, driver, dialer.config.breaker_threshold))
        })
        .await
    }

    /// A connection that is logged in and has answered, within the connect timeout. An attempt at a
    /// server that is not the one to use any more is given up.
    pub(super) async fn connect(&self) -> Result<(MultiplexedConnection, Driver), StoreError> {
        tokio::select! {
            biased;
            connection = self.attempt() => connection,
            () = self.topology.moved() => Err(StoreError::unavailable(format!(
                "{} did not answer, and another server has taken its place",
                self.topology.address()
            ))),
        }
    }

    async fn attempt(&self) -> Result<(MultiplexedConnection, Driver), StoreError> {
        let started = Instant::now();
        let limit = self.config.connect_timeout;
        let stream = self.topology.open(limit).await?;
        let address = self.topology.address();
        match timeout(limit.saturating_sub(started.elapsed()), self.log_in(stream)).await {
            Ok(connection) => connection,
            Err(_) => Err(StoreError::unavailable(format!(
                "{address} accepted the connection but did not answer within {limit:?}; check that \
                 it is Redis, not paused, and whether both ends mean TLS"
            ))),
        }
    }

    async fn log_in(&self, stream: Stream) -> Result<(MultiplexedConnection, Driver), StoreError> {
        let login = &self.topology.site().login;
        let address = self.topology.address();
        let broken = |error: redis::RedisError| {
            StoreError::unavailable(format!(
                "{address} accepted the connection but then closed it or did not speak as Redis \
                 does ({error}); check the port, that it is not a TLS port, and the server's \
                 maxclients and protected mode"
            ))
            .with_source(error)
        };
        // The login is ours: what the client crate would do drops the server's words.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let settings = redis::RedisConnectionInfo::default().set_skip_set_lib_name();
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&settings, stream, config)
                .await
                .map_err(broken)?;
        let driver = Driver::spawn(driver);

        let steps = steps(login);
        let mut pipeline = redis::Pipeline::with_capacity(steps.len());
        for (_, command) in &steps {
            pipeline.add_command(command.clone());
        }
        let replies =
            connection.send_packed_commands(&pipeline, 0, pipeline.len()).await.map_err(broken)?;
        for ((step, _), reply) in steps.iter().zip(replies) {
            match reply {
                Value::ServerError(error) => step.check(&error, login, &address)?,
                reply => step.hear(reply, login, &address)?,
            }
        }
        Ok((connection, driver))
    }
}

/// Runs an attempt in a task of its own, so that a panic in it is one failed attempt, and not the end
/// of all attempts.
pub(super) async fn isolated<T: Send + 'static>(
    attempt: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    AbortOnDropHandle::new(tokio::spawn(attempt)).await.unwrap_or_else(|failure| {
        Err(StoreError::unavailable(format!("connecting to Redis failed: {failure}")))
    })
}

/// What a server says that it is: `master`, `slave`, or `slave (sync)` while that catches up.
fn role_of(reply: &Value) -> Option<String> {
    let Value::Array(parts) = reply else { return None };
    let text = |at: usize| redis::from_redis_value_ref::<String>(parts.get(at)?).ok();
    match (text(0)?, text(3)) {
        (role, Some(link)) if role == "slave" && link != "connected" => {
            Some(format!("{role} ({link})"))
        }
        (role, _) => Some(role),
    }
}

/// What a handshake is made of, in this order, in one round trip.
enum Step {
    Authenticate,
    Select,
    Introduce,
    AskRole,
    ReadOnly,
    Ping,
}

fn steps(login: &Login) -> Vec<(Step, Cmd)> {
    let mut steps = Vec::with_capacity(7);
    let credentials = login.username.is_some() || login.password.is_some();
    let password = login.password.as_deref().unwrap_or_default();
    if login.resp3 {
        let mut hello = redis::cmd("HELLO");
        hello.arg(3);
        if credentials {
            let user = login.username.as_deref().unwrap_or("default");
            hello.arg("AUTH").arg(user).arg(password);
        }
        steps.push((Step::Authenticate, hello));
    } else if credentials {
        let mut auth = redis::cmd("AUTH");
        if let Some(user) = &login.username {
            auth.arg(user);
        }
        auth.arg(password);
        steps.push((Step::Authenticate, auth));
    }
    if login.database != 0 {
        let mut select = redis::cmd("SELECT");
        select.arg(login.database);
        steps.push((Step::Select, select));
    }
    for (name, value) in [("LIB-NAME", LIBRARY), ("LIB-VER", VERSION)] {
        let mut introduce = redis::cmd("CLIENT");
        introduce.arg("SETINFO").arg(name).arg(value);
        steps.push((Step::Introduce, introduce));
    }
    if login.role.is_some() {
        steps.push((Step::AskRole, redis::cmd("ROLE")));
    }
    if login.cluster && login.role == Some(Role::Replica) {
        steps.push((Step::ReadOnly, redis::cmd("READONLY")));
    }
    steps.push((Step::Ping, redis::cmd("PING")));
    steps
}

impl Step {
    /// What an answer to this step means for the attempt.
    fn hear(&self, reply: Value, login: &Login, address: &str) -> Result<(), StoreError> {
        let (Self::AskRole, Some(wanted)) = (self, login.role) else { return Ok(()) };
        let said = role_of(&reply);
        if said.as_deref() == Some(wanted.as_str()) {
            return Ok(());
        }
        let said = said.unwrap_or_else(|| "something unknown".into());
        Err(StoreError::unavailable(format!(
            "{address} says that it is {said}, and not {}; a failover may be under way",
            wanted.as_str()
        )))
    }

    /// What an error in answer to this step means for the attempt.
    fn check(&self, error: &ServerError, login: &Login, address: &str) -> Result<(), StoreError> {
        let words = error::words(error);
        let text = match self {
            // Servers before 7.2 do not know it, and an ACL may forbid it.
            Self::Introduce => return Ok(()),
            // Alive, if not allowed to say so.
            Self::Ping if error::says(error, "NOPERM") => return Ok(()),
            Self::Ping if error::says(error, "NOAUTH") => format!(
                "{address} asks for a password and none is set ({words}); write it into the URL: {}",
                login.in_url
            ),
            Self::Ping => return Err(error::server_error(&format!("PING to {address}"), error)),
            // Said to whatever comes first.
            _ if words.contains("max number of clients") => {
                return Err(StoreError::unavailable(format!(
                    "{address} takes no more connections ({words}); raise its maxclients"
                )));
            }
            Self::Authenticate => {
                let user = login.username.as_deref().unwrap_or("default");
                let hint = if error::says(error, "WRONGPASS") || words.contains("invalid password")
                {
                    "check both, and that special characters are percent-encoded in the URL"
                } else if words.contains("without any password configured") {
                    "the server has no password: take it out of the URL"
                } else if words.contains("unknown command") {
                    "the server is older than Redis 6: take protocol=resp3 out of the URL"
                } else {
                    "check the user, the password and the server's ACL"
                };
                if login.password.is_none() {
                    // Its name is not shown: it may be a password in the wrong place.
                    format!(
                        "{address} refused the login of a user without a password ({words}); a \
                         password stands behind a colon: redis://:password@host:port"
                    )
                } else {
                    format!("{address} refused the login of the user {user:?} ({words}); {hint}")
                }
            }
            Self::AskRole | Self::ReadOnly if error::says(error, "NOPERM") => {
                return Err(error::server_error(&format!("the login at {address}"), error));
            }
            Self::AskRole => {
                return Err(error::server_error(&format!("ROLE of {address}"), error));
            }
            Self::ReadOnly => {
                return Err(error::server_error(&format!("READONLY to {address}"), error));
            }
            Self::Select => format!(
                "{address} refused the database {} ({words}); a server has 16 unless its \
                 `databases` setting says otherwise, numbered from 0, and a cluster has only 0",
                login.database
            ),
        };
        Err(StoreError::config(text))
    }
}
