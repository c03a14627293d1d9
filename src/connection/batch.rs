//! Several calls in one round trip.

use crate::{
    connection::{
        cluster::{Redirect, slot_of},
        deadline::end_of,
        error,
        handle::Connection,
        request::{Request, reads},
        script::{Call, Script, with_text},
    },
    store::StoreError,
};
use redis::{Cmd, Pipeline, RedisResult, Value, aio::MultiplexedConnection};
use std::{
    borrow::Cow,
    fmt,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Commands and script calls that go out together and are answered together.
///
/// The calls are independent: each has its own result, and one that fails does not stop the others.
/// They run in their order, with one exception: a script that the server does not know yet runs
/// after the others, in a second trip. Nothing that was done is ever sent again, unless all of them
/// are reads.
#[must_use = "a batch does nothing until it is run"]
pub struct Batch {
    connection: Connection,
    calls: Calls,
}

impl Batch {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, calls: Calls::with_capacity(2) }
    }

    /// Appends a command.
    pub fn cmd(mut self, cmd: Cmd) -> Self {
        self.calls.push(cmd, None);
        self
    }

    /// Appends a script call.
    pub fn script(mut self, call: Call) -> Self {
        self.calls.push(call.cmd, Some(call.script));
        self
    }

    /// How many calls it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.calls.scripts.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls.scripts.is_empty()
    }

    /// Sends everything in one pipeline and waits for all answers, at most `deadline`. The results
    /// are in the order of the calls. In a cluster there is one pipeline for each server that is
    /// concerned, all at once, so only calls for one server are sure to run in their order; and one
    /// whose keys have moved runs after the others.
    ///
    /// # Errors
    ///
    /// The outer error means that there is no answer to any of the calls; an inner one belongs to
    /// its call.
    pub async fn run(
        self,
        deadline: Duration,
    ) -> Result<Vec<Result<Value, StoreError>>, StoreError> {
        let Self { connection, calls } = self;
        if calls.scripts.is_empty() {
            return Ok(Vec::new());
        }
        let end = end_of(deadline);
        let replies = calls.replies(&connection, end).await?;

        let mut unknown = Vec::new();
        let mut results = Vec::with_capacity(replies.len());
        for (slot, reply) in replies.into_iter().enumerate() {
            if calls.scripts[slot].is_some() && reply.as_ref().is_ok_and(error::is_no_script) {
                unknown.push(slot);
            }
            results.push(reply.and_then(|reply| calls.settle(slot, reply)));
        }
        if unknown.is_empty() {
            return Ok(results);
        }

        let again = calls.with_text(&unknown);
        match again.replies(&connection, end).await {
            Ok(replies) => {
                for (&slot, reply) in unknown.iter().zip(replies) {
                    results[slot] = reply.and_then(|reply| calls.settle(slot, reply));
                }
            }
            // The others were done: their results stand.
            Err(error) => {
                for slot in unknown {
                    results[slot] = Err(error.clone());
                }
            }
        }
        Ok(results)
    }
}

/// The answer to each call.
type Answers = Vec<Result<Value, StoreError>>;

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

/// Only if the runtime ends while the batch is under way.
fn no_answer() -> Result<Value, StoreError> {
    Err(StoreError::interrupted("the batch was cut off before its answer"))
}

/// The calls of a batch: the commands, and for each its script if it is one.
struct Calls {
    pipeline: Pipeline,
    scripts: Vec<Option<&'static Script>>,
}

impl Calls {
    fn with_capacity(capacity: usize) -> Self {
        Self { pipeline: Pipeline::with_capacity(capacity), scripts: Vec::with_capacity(capacity) }
    }

    fn push(&mut self, cmd: Cmd, script: Option<&'static Script>) {
        self.pipeline.add_command(cmd);
        self.scripts.push(script);
    }

    /// Sends all calls, each to the server that holds its keys. The outer error means that there is no
    /// answer to any of them.
    async fn replies(&self, connection: &Connection, end: Instant) -> Result<Answers, StoreError> {
        let groups = connection.by_server(self.pipeline.cmd_iter().map(slot_of));
        let mut answers = match groups.len() {
            0 | 1 => connection.exchange(self, left(end)).await?.into_iter().map(Ok).collect(),
            _ => self.scattered(connection, groups, end).await?,
        };
        if connection.is_cluster() {
            for (slot, cmd) in self.pipeline.cmd_iter().enumerate() {
                // It was not done, and goes alone where it belongs now.
                if answers[slot]
                    .as_ref()
                    .is_ok_and(|reply| Redirect::read(reply).is_some() || error::is_not_now(reply))
                {
                    answers[slot] = connection.exchange(cmd, left(end)).await;
                }
            }
        }
        Ok(answers)
    }

    /// Sends each group to its server, all at once.
    async fn scattered(
        &self,
        connection: &Connection,
        groups: Vec<Vec<usize>>,
        end: Instant,
    ) -> Result<Answers, StoreError> {
        let mut trips = JoinSet::new();
        for slots in groups {
            let (calls, connection) = (self.only(&slots), connection.clone());
            trips.spawn(async move { (slots, connection.exchange(&calls, left(end)).await) });
        }
        let mut answers: Vec<_> = (0..self.scripts.len()).map(|_| None).collect();
        let mut failure = None;
        let mut answered = false;
        while let Some(trip) = trips.join_next().await {
            match trip {
                Ok((slots, Ok(replies))) => {
                    answered = true;
                    for (slot, reply) in slots.into_iter().zip(replies) {
                        answers[slot] = Some(Ok(reply));
                    }
                }
                Ok((slots, Err(error))) => {
                    for slot in slots {
                        answers[slot] = Some(Err(error.clone()));
                    }
                    failure = Some(error);
                }
                Err(_) => {}
            }
        }
        match failure {
            Some(error) if !answered => Err(error),
            _ => Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(no_answer)).collect()),
        }
    }

    /// The calls in `slots`, which ascend.
    fn only(&self, slots: &[usize]) -> Self {
        let mut calls = Self::with_capacity(slots.len());
        for (slot, cmd) in self.pipeline.cmd_iter().enumerate() {
            if slots.binary_search(&slot).is_ok() {
                calls.push(cmd.clone(), self.scripts[slot]);
            }
        }
        calls
    }

    /// The scripts in `slots`, which ascend, by their text.
    fn with_text(&self, slots: &[usize]) -> Self {
        let mut calls = Self::with_capacity(slots.len());
        for (slot, cmd) in self.pipeline.cmd_iter().enumerate() {
            if let (Some(script), Ok(_)) = (self.scripts[slot], slots.binary_search(&slot)) {
                calls.push(with_text(script, cmd), Some(script));
            }
        }
        calls
    }

    fn settle(&self, slot: usize, reply: Value) -> Result<Value, StoreError> {
        match self.scripts[slot] {
            Some(script) => error::settle_script(reply, script),
            None => {
                reply.extract_error().map_err(|error| error::refused(&self.name_of(slot), error))
            }
        }
    }

    fn name_of(&self, slot: usize) -> Cow<'static, str> {
        match (self.scripts.get(slot), self.pipeline.cmd_iter().nth(slot)) {
            (Some(Some(script)), _) => script.name().into(),
            (_, Some(cmd)) => error::command_name(cmd),
            _ => "a batch".into(),
        }
    }
}

impl Request for Calls {
    type Reply = Vec<Value>;

    /// A batch is never the object of an `ASK`: each call of it is, alone.
    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        _asking: bool,
    ) -> RedisResult<Vec<Value>> {
        connection.send_packed_commands(&self.pipeline, 0, self.pipeline.len()).await
    }

    fn slot(&self) -> Option<u16> {
        self.pipeline.cmd_iter().find_map(slot_of)
    }

    fn redirect(_: &Vec<Value>) -> Option<Redirect> {
        None
    }

    fn name(&self) -> Cow<'static, str> {
        let names: Vec<_> = (0..self.scripts.len().min(3)).map(|slot| self.name_of(slot)).collect();
        let more = if self.scripts.len() > names.len() { ", …" } else { "" };
        format!("a batch of {} ({}{more})", self.scripts.len(), names.join(", ")).into()
    }

    fn says_read_only(replies: &Vec<Value>) -> bool {
        replies.iter().any(error::is_read_only)
    }

    fn is_read(&self) -> bool {
        self.scripts.iter().all(Option::is_none) && self.pipeline.cmd_iter().all(reads)
    }

    /// With a write among them only if all were turned away: one that was done is not done again.
    fn may_go_again(&self, replies: &Vec<Value>) -> bool {
        replies.iter().all(error::is_not_now)
            || (replies.iter().any(error::is_not_now) && self.is_read())
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish_non_exhaustive()
    }
}
