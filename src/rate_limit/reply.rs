//! What the scripts answer.

use crate::{
    connection::parse,
    rate_limit::{outcome::Outcome, store::Charge},
    store::StoreError,
};
use redis::Value;

/// What a script answers for each policy.
const NUMBERS_PER_POLICY: usize = 5;

/// What the reply to a call does not repeat.
pub(super) struct Told(Vec<(bool, Option<u64>)>);

impl Told {
    pub(super) fn of(charges: &[Charge]) -> Self {
        let told = |charge: &Charge| {
            let lease = charge.rule.is_concurrency().then_some(charge.receipt);
            (charge.shadow, lease)
        };
        Self(charges.iter().map(told).collect())
    }

    pub(super) fn outcomes(self, reply: Value) -> Result<Vec<Outcome>, StoreError> {
        let numbers: Vec<i64> = parse(reply, "rate_limit/check.lua")?;
        if numbers.len() != NUMBERS_PER_POLICY * self.0.len() {
            return Err(StoreError::corrupt(format!(
                "rate_limit/check.lua: {} numbers are not {NUMBERS_PER_POLICY} for each of {} policies",
                numbers.len(),
                self.0.len()
            )));
        }
        let outcomes = numbers.chunks_exact(NUMBERS_PER_POLICY).zip(self.0).map(outcome);
        Ok(outcomes.collect())
    }
}

fn outcome((numbers, (shadow, lease)): (&[i64], (bool, Option<u64>))) -> Outcome {
    let positive = |at: usize| u64::try_from(numbers[at]).unwrap_or(0);
    let retry = u64::try_from(numbers[3]).ok();
    let mut outcome = Outcome::from_micros(numbers[0] == 1, positive(1), positive(2), retry);
    outcome.banned = numbers[0] == -1;
    outcome.shadow = shadow;
    outcome.receipt = match (positive(4), lease) {
        (0, _) => 0,
        (_, Some(id)) => id,
        (receipt, None) => receipt,
    };
    outcome
}
