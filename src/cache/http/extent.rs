//! Which bytes of a representation a response has (RFC 9110, section 14.4).

use http::{HeaderMap, StatusCode, header::CONTENT_RANGE};
use std::{fmt, ops::Range};

/// From one byte up to another, of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    /// The one behind the last.
    pub(crate) end: u64,
    /// Not known if the origin does not know it.
    pub(crate) total: Option<u64>,
}

impl Extent {
    /// All of them.
    pub(crate) fn whole(length: usize) -> Self {
        let end = length as u64;
        Self { start: 0, end, total: Some(end) }
    }

    /// Those of a 206. `None` if it has several parts, or one that is not counted in bytes.
    pub(crate) fn of_part(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(CONTENT_RANGE).iter();
        let (line, more) = (lines.next()?, lines.next().is_some());
        line.to_str().ok().filter(|_| !more).and_then(parse)
    }

    /// Those of a response with a body of that length.
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap, length: usize) -> Option<Self> {
        match status {
            StatusCode::PARTIAL_CONTENT => Self::of_part(headers),
            _ => Some(Self::whole(length)),
        }
    }

    pub(crate) fn length(&self) -> u64 {
        self.end - self.start
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.start == 0 && self.total == Some(self.end)
    }

    /// Where these bytes of the representation stand in the body, if all of them do.
    pub(crate) fn locate(&self, bytes: &Range<u64>) -> Option<Range<usize>> {
        let within = self.start <= bytes.start && bytes.end <= self.end;
        let offset = |at: u64| usize::try_from(at.checked_sub(self.start)?).ok();
        Some(offset(bytes.start)?..offset(bytes.end)?).filter(|_| within)
    }

    /// The field's value for these bytes of it.
    pub(crate) fn describe(&self, bytes: &Range<u64>) -> String {
        Self { start: bytes.start, end: bytes.end, ..*self }.to_string()
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}-{}/", self.start, self.end - 1)?;
        match self.total {
            Some(total) => write!(f, "{total}"),
            None => f.write_str("*"),
        }
    }
}

fn parse(text: &str) -> Option<Extent> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |digits: &str| {
        let legal = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| legal)
    };
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    let (start, end) = (number(first)?, number(last)?.checked_add(1)?);
    let valid = start < end && total.is_none_or(|total| end <= total);
    let bytes = unit.eq_ignore_ascii_case("bytes");
    (valid && bytes).then_some(Extent { start, end, total })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_of_a_content_range() {
        for (text, expected) in [
            ("bytes 0-4/10", Some((0, 5, Some(10)))),
            ("Bytes 5-9/10", Some((5, 10, Some(10)))),
            ("bytes 5-9/*", Some((5, 10, None))),
            ("bytes 5-10/10", None),
            ("bytes 5-4/10", None),
            ("bytes */10", None),
            ("bytes 0-4", None),
            ("bytes 0-4/x", None),
            ("bytes +0-4/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("lines 0-4/10", None),
            ("", None),
        ] {
            let expected = expected.map(|(start, end, total)| Extent { start, end, total });
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn bytes_are_located_only_if_all_of_them_are_there() {
        let held = Extent { start: 4, end: 8, total: Some(10) };
        for (bytes, expected) in
            [(4..8, Some(0..4)), (5..6, Some(1..2)), (3..6, None), (6..9, None), (0..10, None)]
        {
            assert_eq!(held.locate(&bytes), expected, "{bytes:?}");
        }
        assert_eq!(held.describe(&(5..6)), "bytes 5-5/10");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(start in 0u64..99, length in 1u64..99, more in proptest::option::of(0u64..9)) {
            let end = start + length;
            let extent = Extent { start, end, total: more.map(|more| end + more) };
            prop_assert_eq!(parse(&extent.to_string()), Some(extent));
        }

        #[test]
        fn no_text_makes_it_panic(text in "bytes [0-9]{0,22}-[0-9]{0,22}/[0-9]{0,22}|\\PC{0,20}") {
            if let Some(extent) = parse(&text) {
                prop_assert!(extent.start < extent.end);
            }
        }
    }
}
