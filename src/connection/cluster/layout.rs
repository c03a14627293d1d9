//! Who holds which slots: what `CLUSTER SLOTS` answers.

use super::{redirect::Place, slot::SLOTS};
use crate::{connection::url::Address, store::StoreError};
use redis::Value;

/// Slots, both ends included, and the server that takes their writes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) owner: Address,
}

/// Reads the answer of the server at `asked`. Of each range it names the owner first, and then the
/// replicas, which nobody here needs.
pub(super) fn read(reply: &Value, asked: &Address) -> Result<Vec<Range>, StoreError> {
    let Value::Array(entries) = reply else { return Err(strange()) };
    entries.iter().map(|entry| range(entry, asked).ok_or_else(strange)).collect()
}

fn strange() -> StoreError {
    StoreError::corrupt("CLUSTER SLOTS: the answer is not a list of slots and their servers")
}

fn range(entry: &Value, asked: &Address) -> Option<Range> {
    let Value::Array(entry) = entry else { return None };
    let [first, last, owner, ..] = &entry[..] else { return None };
    let Value::Array(owner) = owner else { return None };
    // The client crate would cut a larger one short.
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last || last >= SLOTS {
        return None;
    }
    let host = redis::from_redis_value_ref(owner.first()?).ok()?;
    Some(Range { first, last, owner: Place::new(host, number(owner.get(1)?)?).from(asked) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ranges: &[(i64, i64, Value, i64)]) -> Value {
        let entry = |(first, last, host, port): &(i64, i64, Value, i64)| {
            let owner = Value::Array(vec![host.clone(), Value::Int(*port), Value::Nil]);
            Value::Array(vec![Value::Int(*first), Value::Int(*last), owner])
        };
        Value::Array(ranges.iter().map(entry).collect())
    }

    #[test]
    fn reads_who_owns_what_and_refuses_nonsense() {
        let asked = Address::Tcp { host: "here".into(), port: 1 };
        let host = || Value::BulkString(b"a".into());
        let read = |ranges: &[_]| {
            read(&answer(ranges), &asked).map(|ranges| {
                let owners = ranges.into_iter().map(|r| (r.first, r.last, r.owner.to_string()));
                owners.collect::<Vec<_>>()
            })
        };
        assert_eq!(
            read(&[(0, 5, host(), 7), (6, 16_383, Value::Nil, 8)]).unwrap(),
            [(0, 5, "a:7".into()), (6, 16_383, "here:8".into())]
        );
        for bad in [(5, 0, host(), 7), (0, 16_384, host(), 7), (0, 1, host(), 70_000)] {
            assert!(read(&[bad]).unwrap_err().is_corrupt());
        }
        assert!(super::read(&Value::Okay, &asked).is_err());
    }
}
