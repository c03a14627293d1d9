//! Reads the commands in what a client sends.

/// How much of one argument is kept for the log.
const KEPT: usize = 256;

/// Takes bytes as they come and gives the commands that they complete.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    state: State,
    /// Bytes of an unfinished line.
    line: Vec<u8>,
    args: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first byte of a command.
    #[default]
    Start,
    /// In the line `*<args>` or in an inline command.
    Head,
    /// In the line `$<length>`, with that many arguments to come.
    Length { args: usize },
    /// In an argument, with that many bytes to come, its CR LF included.
    Arg { args: usize, bytes: usize },
    /// This is not RESP (TLS, say): nothing is read any more.
    Opaque,
}

impl Requests {
    /// Whether the next byte begins a command.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, State::Start | State::Opaque)
    }

    /// Whether the client speaks something that cannot be read.
    pub(super) fn is_opaque(&self) -> bool {
        self.state == State::Opaque
    }

    /// The commands that end in these bytes; arguments are cut at 256 bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut commands = Vec::new();
        while let Some(&first) = bytes.first() {
            match self.state {
                State::Opaque => break,
                State::Start if first == b'*' || first.is_ascii_alphabetic() => {
                    self.state = State::Head;
                }
                State::Start => self.state = State::Opaque,
                State::Head | State::Length { .. } => {
                    let end = bytes.iter().position(|&byte| byte == b'\n');
                    let (taken, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
                    self.line.extend_from_slice(taken);
                    bytes = rest;
                    if end.is_some() {
                        self.end_line();
                    }
                }
                State::Arg { args, bytes: missing } => {
                    let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
                    // The last two of the missing bytes are CR LF.
                    let content = taken.len().min(missing.saturating_sub(2));
                    if let Some(arg) = self.args.last_mut() {
                        let room = KEPT.saturating_sub(arg.len()).min(content);
                        arg.extend_from_slice(&taken[..room]);
                    }
                    bytes = rest;
                    self.state = match missing - taken.len() {
                        0 if args == 0 => State::Start,
                        0 => State::Length { args },
                        missing => State::Arg { args, bytes: missing },
                    };
                }
            }
            if self.state == State::Start && !self.args.is_empty() {
                commands.push(std::mem::take(&mut self.args));
            }
        }
        commands
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.trim_ascii_end();
        let number = |line: &[u8]| std::str::from_utf8(line).ok()?.parse::<usize>().ok();
        self.state = match (self.state, line.split_first()) {
            (State::Head, Some((b'*', count))) => match number(count) {
                Some(0) => State::Start,
                Some(args) => State::Length { args },
                None => State::Opaque,
            },
            (State::Head, _) => {
                self.args = line.split(u8::is_ascii_whitespace).map(<[u8]>::to_vec).collect();
                State::Start
            }
            (State::Length { args }, Some((b'$', length))) => match number(length) {
                Some(length) => {
                    self.args.push(Vec::new());
                    State::Arg { args: args - 1, bytes: length + 2 }
                }
                None => State::Opaque,
            },
            _ => State::Opaque,
        };
    }
}
