//! The whole session as one value, and messages that are shown once.

use crate::session::{error::Error, handle::Session};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::fmt::Write;

/// The names of messages begin with this.
const FLASH: &str = "flash:";

impl Session {
    /// Reads all fields at once as a struct with a member for each: fields that it does not name are
    /// left out, as serde has it.
    ///
    /// ```
    /// use serde_json::Value;
    /// use std::collections::BTreeMap;
    /// use towerkeep::session::{Error, Session};
    ///
    /// fn everything(session: &Session) -> Result<BTreeMap<String, Value>, Error> {
    ///     session.read()
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::is_decode`] if they do not make a `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let mut map = Map::new();
        for name in self.names() {
            if let Some(value) = self.get::<Value>(&name)? {
                map.insert(name, value);
            }
        }
        let whole = "the whole session";
        serde_json::from_value(Value::Object(map))
            .map_err(|source| Error::decode::<T>(whole, &source))
    }

    /// Sets a field for each member of a struct, and removes the field of a member that is null. A
    /// member that is what the field holds already changes nothing, so that concurrent requests which
    /// change different members do not undo each other's; fields that the struct does not name stay.
    ///
    /// # Errors
    ///
    /// As [`set`](Session::set), and if the value is not written as a JSON object. Some fields may be
    /// set then.
    pub fn write<T: Serialize + ?Sized>(&self, whole: &T) -> Result<(), Error> {
        let encoded = serde_json::to_value(whole)
            .and_then(serde_json::from_value::<Map<String, Value>>)
            .map_err(|source| Error::encode("the whole session", source))?;
        for (name, value) in &encoded {
            if value.is_null() {
                self.remove(name)?;
            } else if self.get::<Value>(name)?.as_ref() != Some(value) {
                self.set(name, value)?;
            }
        }
        Ok(())
    }

    /// Leaves a message for the page that is shown next: after a redirect, usually. Messages of
    /// concurrent requests are all kept, each in a field of its own (`flash:…`).
    ///
    /// # Errors
    ///
    /// As [`set`](Session::set).
    pub fn flash<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), Error> {
        let mut name = String::from(FLASH);
        // In the order of time, and of the same time each apart.
        let _ = write!(name, "{:013x}", self.config().store.clock().now_us());
        for byte in crate::token::random::<4>() {
            let _ = write!(name, "{byte:02x}");
        }
        self.set(&name, message)
    }

    /// Takes the messages that were left, in their order. A message that is not a `T` is gone, too.
    ///
    /// # Errors
    ///
    /// As [`take`](Session::take).
    pub fn flashes<T: DeserializeOwned>(&self) -> Result<Vec<T>, Error> {
        let names = self.names();
        let taken: Vec<_> = names
            .iter()
            .filter(|name| name.starts_with(FLASH))
            .map(|name| self.take(name))
            .collect();
        taken.into_iter().filter_map(Result::transpose).collect()
    }
}
