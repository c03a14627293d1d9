//! A small synchronous Redis client: the tests' `redis-cli`, independent of the client under test.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// How long one command may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(5);

/// A reply in RESP2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Nil,
    Int(i64),
    Status(String),
    Error(String),
    Bulk(Vec<u8>),
    Array(Vec<Value>),
}

/// One connection.
pub(crate) struct RespClient(BufReader<Stream>);

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl RespClient {
    /// Connects to a port on the loopback address.
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Self::over(Stream::Tcp(stream))
    }

    /// Connects to a unix socket.
    pub(crate) fn connect_unix(path: &Path) -> io::Result<Self> {
        Self::over(Stream::Unix(UnixStream::connect(path)?))
    }

    fn over(stream: Stream) -> io::Result<Self> {
        let mut client = Self(BufReader::new(stream));
        client.set_patience(PATIENCE)?;
        Ok(client)
    }

    /// How long a reply may take; 5 seconds unless told.
    pub(crate) fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        match self.0.get_ref() {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(patience)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(patience)),
        }
    }

    /// Sends one command and reads its reply; panics on an error reply, so that none goes unseen.
    pub(crate) fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        match self.try_command(args) {
            Ok(Value::Error(message)) => panic!("{}: {message}", shown(args)),
            Ok(value) => value,
            Err(error) => panic!("{}: {error}", shown(args)),
        }
    }

    /// Sends one command and reads its reply, which may be an error reply.
    pub(crate) fn try_command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Value> {
        self.send(args)?;
        self.receive()
    }

    /// Sends all commands in one write, then reads as many replies.
    pub(crate) fn pipeline(&mut self, commands: &[&[&str]]) -> io::Result<Vec<Value>> {
        let bytes: Vec<u8> = commands.iter().flat_map(|args| encode(args)).collect();
        self.0.get_mut().write_all(&bytes)?;
        commands.iter().map(|_| self.receive()).collect()
    }

    /// Sends one command without waiting for the reply.
    pub(crate) fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<()> {
        self.0.get_mut().write_all(&encode(args))
    }

    /// Reads one reply, or one message of a subscription.
    pub(crate) fn receive(&mut self) -> io::Result<Value> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::InvalidData)?;
        let number =
            || rest.parse::<i64>().map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        Ok(match kind {
            "+" => Value::Status(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Int(number()?),
            "$" => match usize::try_from(number()?) {
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.0.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Value::Bulk(bytes)
                }
                Err(_) => Value::Nil,
            },
            "*" => match usize::try_from(number()?) {
                Ok(length) => {
                    Value::Array((0..length).map(|_| self.receive()).collect::<io::Result<_>>()?)
                }
                Err(_) => Value::Nil,
            },
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, line)),
        })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Value {
    /// The integer; panics on anything else.
    #[track_caller]
    pub(crate) fn int(&self) -> i64 {
        match self {
            Self::Int(number) => *number,
            other => panic!("not an integer: {other:?}"),
        }
    }

    /// The text of a string or a status; panics on anything else.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Status(text) => text.clone(),
            other => panic!("not a string: {other:?}"),
        }
    }

    /// The texts of an array; panics on anything else.
    #[track_caller]
    pub(crate) fn texts(&self) -> Vec<String> {
        match self {
            Self::Array(values) => values.iter().map(Self::text).collect(),
            other => panic!("not an array: {other:?}"),
        }
    }

    /// The fields of a hash, from its flat array; panics on anything else.
    #[track_caller]
    pub(crate) fn map(&self) -> BTreeMap<String, String> {
        let texts = self.texts();
        assert!(texts.len().is_multiple_of(2), "an odd number of names and values: {texts:?}");
        texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }

    pub(crate) fn is_nil(&self) -> bool {
        *self == Self::Nil
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args.iter().map(AsRef::as_ref) {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn shown<A: AsRef<[u8]>>(args: &[A]) -> String {
    let words: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg.as_ref())).collect();
    words.join(" ")
}
