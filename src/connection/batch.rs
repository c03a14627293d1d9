//! Several calls in one round trip.

use crate::{
    connection::{
        error,
        handle::Connection,
        script::{Call, Script, with_text},
    },
    store::StoreError,
};
use redis::{Cmd, Pipeline, Value};
use std::{
    borrow::Cow,
    fmt,
    time::{Duration, Instant},
};

/// Commands and script calls that go out together and are answered together.
///
/// The calls are independent: each has its own result, and one that fails does not stop the others.
/// They run in their order, with one exception: a script that the server does not know yet runs
/// after the others, in a second trip. Nothing that was answered is ever sent again.
#[must_use = "a batch does nothing until it is run"]
pub struct Batch {
    connection: Connection,
    pipeline: Pipeline,
    /// For each call, its script, if it is one.
    scripts: Vec<Option<&'static Script>>,
}

impl Batch {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, pipeline: Pipeline::with_capacity(2), scripts: Vec::with_capacity(2) }
    }

    /// Appends a command.
    pub fn cmd(mut self, cmd: Cmd) -> Self {
        self.pipeline.add_command(cmd);
        self.scripts.push(None);
        self
    }

    /// Appends a script call.
    pub fn script(mut self, call: Call) -> Self {
        self.pipeline.add_command(call.cmd);
        self.scripts.push(Some(call.script));
        self
    }

    /// How many calls it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scripts.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scripts.is_empty()
    }

    /// Sends everything in one pipeline and waits for all answers, at most `deadline`.
    ///
    /// # Errors
    ///
    /// The outer error means that there is no answer to any of the calls; an inner one belongs to
    /// its call.
    pub async fn run(
        self,
        deadline: Duration,
    ) -> Result<Vec<Result<Value, StoreError>>, StoreError> {
        let Self { connection, pipeline, scripts } = self;
        if scripts.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let replies = connection.exchange(&pipeline, deadline).await?;

        let unknown: Vec<usize> = (0..replies.len())
            .filter(|&slot| scripts[slot].is_some() && error::is_no_script(&replies[slot]))
            .collect();
        let name = |slot: usize| -> Cow<'static, str> {
            match scripts[slot] {
                Some(script) => script.name().into(),
                None => pipeline.cmd_iter().nth(slot).map_or("".into(), error::command_name),
            }
        };
        let mut results: Vec<_> = replies
            .into_iter()
            .enumerate()
            .map(|(slot, reply)| settle(reply, || name(slot)))
            .collect();
        if unknown.is_empty() {
            return Ok(results);
        }

        let mut second = Pipeline::with_capacity(unknown.len());
        for (slot, cmd) in pipeline.cmd_iter().enumerate() {
            if let (Some(script), true) = (scripts[slot], unknown.contains(&slot)) {
                second.add_command(with_text(script, cmd));
            }
        }
        let left = deadline.saturating_sub(started.elapsed());
        match connection.exchange(&second, left).await {
            Ok(replies) => {
                for (&slot, reply) in unknown.iter().zip(replies) {
                    results[slot] = settle(reply, || name(slot));
                }
            }
            // The others were done: their results stand.
            Err(error) => {
                for &slot in &unknown {
                    results[slot] = Err(error::again(&error));
                }
            }
        }
        Ok(results)
    }
}

fn settle(reply: Value, name: impl Fn() -> Cow<'static, str>) -> Result<Value, StoreError> {
    reply.extract_error().map_err(|error| error::refused(&name(), error))
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish_non_exhaustive()
    }
}
