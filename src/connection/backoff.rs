//! Pauses that grow, with jitter, up to a cap.

use std::time::Duration;

/// Nobody means a longer one, and the longest duration there is cannot be multiplied.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// The next pause: doubles each time, and is drawn from its upper half, so that a fleet that lost
/// its server together does not come back together.
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        let (min, max) = (min.min(LONGEST), max.min(LONGEST));
        Self { min, max, next: min }
    }

    pub(super) fn reset(&mut self) {
        self.next = self.min;
    }

    pub(super) fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.max);
        // Without randomness the pause is whole, which is only less polite.
        let random = getrandom::u32().map_or(1.0, |n| f64::from(n) / f64::from(u32::MAX));
        full.mul_f64(0.5 + random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_start_again_after_a_reset() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(20), ms(100));
        for full in [20, 40, 80, 100, 100] {
            let pause = backoff.pause();
            assert!(pause >= ms(full) / 2 && pause <= ms(full), "{pause:?} of {full} ms");
        }
        backoff.reset();
        assert!(backoff.pause() <= ms(20));
        assert!(Backoff::new(Duration::MAX, Duration::MAX).pause() <= LONGEST);
    }
}
