//! The owner of each slot.

use crate::connection::{cluster::slot::SLOTS, node::Node};
use std::{ops::RangeInclusive, sync::Arc};

/// The owner of each slot.
#[derive(Clone)]
pub(super) struct Owners {
    /// For each slot a position in `nodes`, or none.
    owners: Box<[Option<u16>]>,
    pub(super) nodes: Vec<Arc<Node>>,
}

impl Owners {
    pub(super) fn empty() -> Self {
        Self { owners: vec![None; SLOTS.into()].into(), nodes: Vec::new() }
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        let at = (*self.owners.get(usize::from(slot))?)?;
        self.nodes.get(usize::from(at))
    }

    pub(super) fn set(&mut self, slots: RangeInclusive<u16>, owner: &Arc<Node>) {
        let known = self.nodes.iter().position(|node| Arc::ptr_eq(node, owner));
        let at = known.unwrap_or_else(|| {
            self.nodes.push(owner.clone());
            self.nodes.len() - 1
        });
        for slot in slots {
            if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
                *owner = u16::try_from(at).ok();
            }
        }
    }

    pub(super) fn with(&self, slot: u16, owner: &Arc<Node>) -> Self {
        let mut owners = self.clone();
        owners.set(slot..=slot, owner);
        owners
    }
}
