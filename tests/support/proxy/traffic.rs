//! What the proxy counts and what it decides, without any I/O.

use std::{collections::VecDeque, time::Duration};

use super::{Mode, requests::Requests};

/// A command on its way to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The connection's index in `FaultProxy::links`.
    pub(crate) link: usize,
    /// In upper case.
    pub(crate) name: String,
    /// What follows the name, each argument cut at 256 bytes.
    pub(crate) args: Vec<Vec<u8>>,
    /// Whether it went on to the server.
    pub(crate) forwarded: bool,
}

impl Seen {
    /// Whether it only sets a connection up or keeps it alive.
    pub(crate) fn is_upkeep(&self) -> bool {
        match self.name.as_str() {
            "PING" | "HELLO" | "AUTH" | "SELECT" => true,
            "CLIENT" => self.args.first().is_some_and(|arg| {
                arg.eq_ignore_ascii_case(b"SETINFO") || arg.eq_ignore_ascii_case(b"SETNAME")
            }),
            _ => false,
        }
    }

    /// The arguments as text.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
    }
}

/// One connection of a client.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) open: bool,
    pub(crate) turns: usize,
    /// Commands, without those of `Seen::is_upkeep`.
    pub(crate) commands: usize,
    requests: Requests,
    /// A reply came since the last turn began.
    answered: bool,
    /// The next command begins a turn.
    fresh: bool,
    /// What was planned for the last turn; its reply keeps it.
    planned: Mode,
    /// Both directions have lost bytes, or shall lose all.
    dead: bool,
    /// Replies were lost.
    mute: bool,
}

/// What is to be done with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Forward(Duration),
    Swallow,
    Close,
}

#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// For all traffic.
    mode: Mode,
    /// For turns, where `mode` lets them pass.
    planned: Mode,
    plan: VecDeque<(usize, Mode)>,
    turns: usize,
    commands: Vec<Seen>,
    links: Vec<Link>,
}

impl Traffic {
    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn set(&mut self, mode: Mode) {
        self.mode = mode;
        self.planned = Mode::Pass;
        self.plan.clear();
    }

    pub(super) fn plan(&mut self, steps: VecDeque<(usize, Mode)>) {
        self.plan = steps;
    }

    pub(super) fn half_open(&mut self) {
        for link in self.links.iter_mut().filter(|link| link.open) {
            link.dead = true;
        }
    }

    pub(super) fn turns(&self) -> usize {
        self.turns
    }

    pub(super) fn commands(&self) -> impl Iterator<Item = &Seen> {
        self.commands.iter()
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    pub(super) fn reset(&mut self) {
        self.turns = 0;
        self.commands.clear();
        for link in &mut self.links {
            link.turns = 0;
            link.commands = 0;
        }
    }

    /// A new connection; gives its index.
    pub(super) fn opened(&mut self) -> usize {
        self.links.push(Link {
            open: true,
            turns: 0,
            commands: 0,
            requests: Requests::default(),
            answered: true,
            fresh: false,
            planned: Mode::Pass,
            dead: self.mode == Mode::BlackHole,
            mute: false,
        });
        self.links.len() - 1
    }

    pub(super) fn closed(&mut self, link: usize) {
        self.links[link].open = false;
    }

    /// Whether the end of the server's side must stay unknown to the client.
    pub(super) fn hides_the_end(&self, link: usize) -> bool {
        self.mode == Mode::BlackHole || self.links[link].dead || self.links[link].mute
    }

    /// Bytes from the client: counts them and decides.
    pub(super) fn request(&mut self, index: usize, bytes: &[u8]) -> Verdict {
        let link = &mut self.links[index];
        // A command whose first byte came before the reply belongs to the turn before it.
        if link.answered && link.requests.is_between() {
            link.fresh = true;
        }
        let commands = link.requests.feed(bytes);
        let opaque = link.requests.is_opaque();
        let logged = self.commands.len();
        for mut args in commands {
            let name = String::from_utf8_lossy(&args.remove(0)).to_uppercase();
            self.commands.push(Seen { link: index, name, args, forwarded: false });
        }
        let real = self.commands[logged..].iter().filter(|seen| !seen.is_upkeep()).count();
        self.links[index].commands += real;
        if (real > 0 || opaque) && self.links[index].fresh {
            self.begin_turn(index);
        }

        let verdict = self.verdict_on_request(index);
        if let Verdict::Forward(_) = verdict {
            self.commands[logged..].iter_mut().for_each(|seen| seen.forwarded = true);
        }
        verdict
    }

    /// Bytes from the server: notes that a reply was seen, and decides.
    pub(super) fn reply(&mut self, index: usize) -> Verdict {
        let mode = self.mode;
        let link = &mut self.links[index];
        link.answered = true;
        let is = |fault| mode == fault || link.planned == fault;
        link.dead |= is(Mode::BlackHole);
        link.mute |= is(Mode::DropReplies);
        if link.dead || link.mute {
            Verdict::Swallow
        } else if is(Mode::CutReplies) {
            Verdict::Close
        } else {
            Verdict::Forward(Duration::ZERO)
        }
    }

    fn begin_turn(&mut self, index: usize) {
        self.turns += 1;
        while let Some((left, mode)) = self.plan.front_mut() {
            if *left > 0 {
                *left -= 1;
                break;
            }
            self.planned = *mode;
            self.plan.pop_front();
        }
        let link = &mut self.links[index];
        link.turns += 1;
        link.fresh = false;
        link.answered = false;
        link.planned = self.planned;
    }

    fn verdict_on_request(&mut self, index: usize) -> Verdict {
        let link = &mut self.links[index];
        let mode = if self.mode != Mode::Pass { self.mode } else { link.planned };
        match mode {
            _ if link.dead => Verdict::Swallow,
            Mode::BlackHole => {
                link.dead = true;
                Verdict::Swallow
            }
            Mode::HangUp => Verdict::Close,
            Mode::Delay(delay) => Verdict::Forward(delay),
            Mode::Pass | Mode::DropReplies | Mode::CutReplies | Mode::Refuse => {
                Verdict::Forward(Duration::ZERO)
            }
        }
    }
}
