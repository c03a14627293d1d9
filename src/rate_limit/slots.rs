//! In which slots of a Redis Cluster the counts lie.

use crate::rate_limit::store::Charge;

/// Where the counts of a cluster lie. Without a cluster it only changes the names of the keys, so
/// choose once: after a change all counts start anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Slots {
    /// Each key has a slot, and all policies on it share it. Policies of one layer that count by
    /// *different* keys are decided key by key, that with the lowest limit first, and what was taken is
    /// given back if a later one denies: one round trip for each key, not atomic, never more admitted
    /// than the limits.
    #[default]
    PerKey,
    /// Everything in one slot: every request is decided in one atomic step and one round trip, and one
    /// server of the cluster does all the work.
    Single,
}

/// The places of the charges on each key.
pub(crate) fn groups(charges: &[Charge]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, charge) in charges.iter().enumerate() {
        match groups.iter_mut().find(|group| charges[group[0]].key == charge.key) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}
