//! As much of structured field values (RFC 9651) as one Item with parameters needs.
//!
//! The parser is strict, as section 4.2 asks: anything but an Item is an error, also in the
//! parameters that nobody reads.

/// Why text is not an Item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// A String without its closing quote.
    Unterminated,
    /// A character in a String that may not stand there.
    Character(u8),
    /// A backslash before something other than a quote or a backslash.
    Escape,
    /// A parameter that is not one.
    Parameter,
    /// More text after the Item.
    Trailing,
}

/// What is left to read.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Leading spaces are skipped, as before every Item.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        let mut reader = Self(text);
        reader.skip_spaces();
        reader
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// A String, section 4.2.5; the next byte is its opening quote.
    pub(crate) fn string(&mut self) -> Result<String, Malformed> {
        self.0 = &self.0[1..];
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(Malformed::Unterminated),
                Some(b'"') => return Ok(text),
                Some(b'\\') => match self.next() {
                    Some(escaped @ (b'"' | b'\\')) => text.push(escaped.into()),
                    Some(_) => return Err(Malformed::Escape),
                    None => return Err(Malformed::Unterminated),
                },
                Some(plain @ 0x20..=0x7e) => text.push(plain.into()),
                Some(other) => return Err(Malformed::Character(other)),
            }
        }
    }

    /// The bytes up to the first that is not of a kind.
    pub(crate) fn take_while(&mut self, kind: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|byte| !kind(*byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// Parameters (section 4.2.3.2), which are checked and thrown away, and then the end.
    pub(crate) fn end(mut self) -> Result<(), Malformed> {
        while self.eat(b';') {
            self.skip_spaces();
            self.key().ok_or(Malformed::Parameter)?;
            if self.eat(b'=') {
                self.bare_item().ok_or(Malformed::Parameter)?;
            }
        }
        self.skip_spaces();
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }

    /// Section 4.2.3.3.
    fn key(&mut self) -> Option<()> {
        let first = self.next()?;
        self.take_while(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        });
        (first.is_ascii_lowercase() || first == b'*').then_some(())
    }

    /// Section 4.2.3.1.
    fn bare_item(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().ok().map(drop),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            b'*' | b'A'..=b'Z' | b'a'..=b'z' => {
                self.take_while(|byte| is_tchar(byte) || b":/".contains(&byte));
                Some(())
            }
            b':' => self.bytes(),
            b'?' => {
                self.next();
                matches!(self.next(), Some(b'0' | b'1')).then_some(())
            }
            b'@' => {
                self.next();
                self.number().filter(|is_integer| *is_integer).map(drop)
            }
            b'%' => self.display_string(),
            _ => None,
        }
    }

    /// Section 4.2.4; whether it is an Integer, not a Decimal.
    fn number(&mut self) -> Option<bool> {
        self.eat(b'-');
        let whole = self.take_while(|byte| byte.is_ascii_digit()).len();
        if !self.eat(b'.') {
            return (1..=15).contains(&whole).then_some(true);
        }
        let fraction = self.take_while(|byte| byte.is_ascii_digit()).len();
        ((1..=12).contains(&whole) && (1..=3).contains(&fraction)).then_some(false)
    }

    /// Section 4.2.7. Missing padding and stray bits are let pass, as it advises.
    fn bytes(&mut self) -> Option<()> {
        self.next();
        self.take_while(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
        self.eat(b':').then_some(())
    }

    /// Section 4.2.10.
    fn display_string(&mut self) -> Option<()> {
        self.next();
        if !self.eat(b'"') {
            return None;
        }
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => return str::from_utf8(&text).ok().map(drop),
                b'%' => text.push(self.hex()? << 4 | self.hex()?),
                plain @ 0x20..=0x7e => text.push(plain),
                _ => return None,
            }
        }
    }

    fn hex(&mut self) -> Option<u8> {
        match self.next()? {
            digit @ b'0'..=b'9' => Some(digit - b'0'),
            letter @ b'a'..=b'f' => Some(letter - b'a' + 10),
            _ => None,
        }
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.next();
        }
        found
    }

    fn skip_spaces(&mut self) {
        self.take_while(|byte| byte == b' ');
    }
}

/// RFC 9110, section 5.6.2.
pub(crate) fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(text: &str) -> Result<String, Malformed> {
        let mut reader = Reader::new(text.as_bytes());
        let value = reader.string()?;
        reader.end().map(|()| value)
    }

    #[test]
    fn every_type_of_parameter_is_understood_and_ignored() {
        for parameters in [
            "",
            ";a",
            ";a;b;*c",
            ";  a=1",
            ";a=-1;b=999999999999999",
            ";a=1.5;b=-123456789012.123",
            ";a=\"x;\\\" y\"",
            ";a=token/*:x",
            ";a=*",
            ";a=:aGVsbG8=:",
            ";a=::",
            ";a=?0;b=?1",
            ";a=@1659578233",
            ";a=%\"f%c3%bc\"",
            ";a_-.*9=1  ",
        ] {
            assert_eq!(item(&format!("\"k\"{parameters}")).as_deref(), Ok("k"), "{parameters:?}");
        }
    }

    #[test]
    fn a_parameter_that_is_not_one_is_an_error() {
        for parameters in [
            ";",
            ";A",
            ";1",
            ";a=",
            ";a=-",
            ";a=1.",
            ";a=.5",
            ";a=1.2345",
            ";a=1234567890123456",
            ";a=1234567890123.1",
            ";a=\"x",
            ";a=:x",
            ";a=:!:",
            ";a=?2",
            ";a=@1.5",
            ";a=%\"%C3%BC\"",
            ";a=%\"%ff\"",
            ";a=%x",
            ";a=(1 2)",
        ] {
            let found = item(&format!("\"k\"{parameters}"));
            assert_eq!(found, Err(Malformed::Parameter), "{parameters:?}");
        }
    }

    #[test]
    fn nothing_but_spaces_may_follow() {
        for rest in [" x", ",", ", \"b\"", "\"b\"", " ;a", "\t"] {
            assert_eq!(item(&format!("\"k\"{rest}")), Err(Malformed::Trailing), "{rest:?}");
        }
    }

    proptest! {
        #[test]
        fn any_printable_text_survives_quoting(text in "[ -~]{0,300}") {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(item(&format!(" \"{quoted}\" ")), Ok(text));
        }

        #[test]
        fn no_text_makes_the_parser_panic(mut text in proptest::collection::vec(any::<u8>(), 0..60)) {
            text.insert(0, b'"');
            let mut reader = Reader::new(&text);
            if reader.string().is_ok() {
                let _ = reader.end();
            }
        }

        #[test]
        fn no_parameter_makes_the_parser_panic(text in "[;a-c=:?@%\"0-9.()*+-]{0,40}") {
            let _ = item(&format!("\"k\"{text}"));
        }
    }
}
