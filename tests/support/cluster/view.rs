//! What `CLUSTER NODES` says of one node.

use std::ops::RangeInclusive;

/// A line of it, without what changes by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) id: String,
    pub(super) flags: Vec<String>,
    pub(super) master: Option<String>,
    pub(super) connected: bool,
    /// Each with its first and its last.
    pub(super) slots: Vec<(u16, u16)>,
    /// Whether a slot is on its way from or to it, which only the node itself says.
    pub(super) moving: bool,
}

impl Line {
    pub(super) fn is_master(&self) -> bool {
        self.has("master")
    }

    pub(super) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }

    pub(super) fn owns(&self, slot: u16) -> bool {
        self.is_master() && self.slots.iter().any(|&(first, last)| (first..=last).contains(&slot))
    }

    pub(super) fn owns_just(&self, slots: &RangeInclusive<u16>) -> bool {
        self.is_master() && self.slots == [(*slots.start(), *slots.end())]
    }

    /// What the nodes should agree about.
    pub(super) fn essence(&self) -> Self {
        let flags = if self.is_master() { vec!["master".to_owned()] } else { Vec::new() };
        Self { flags, connected: true, moving: false, ..self.clone() }
    }
}

/// The lines, sorted; the node that was asked has the flag `myself`. Nodes whose names are not known
/// yet, as they are still shaking hands, are left out.
pub(super) fn parse(text: &str) -> Vec<Line> {
    let lines = text.lines().map(parse_line).filter(|line| !line.has("handshake"));
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

/// `<id> <address> <flags> <master> <ping> <pong> <epoch> <link> <slots>…`
fn parse_line(line: &str) -> Line {
    let words: Vec<_> = line.split(' ').collect();
    assert!(words.len() >= 8, "a line of CLUSTER NODES: {line:?}");
    let (moving, slots): (Vec<_>, Vec<_>) =
        words[8..].iter().filter(|word| !word.is_empty()).partition(|word| word.starts_with('['));
    let number = |text: &str| text.parse::<u16>().expect("slots are numbers");
    Line {
        id: words[0].to_owned(),
        flags: words[2].split(',').map(str::to_owned).collect(),
        master: Some(words[3]).filter(|&id| id != "-").map(str::to_owned),
        connected: words[7] == "connected",
        slots: slots
            .into_iter()
            .map(|range: &&str| range.split_once('-').unwrap_or((range, range)))
            .map(|(first, last)| (number(first), number(last)))
            .collect(),
        moving: !moving.is_empty(),
    }
}
