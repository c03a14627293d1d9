//! The version of a server, as something that compares.

use std::fmt;

/// A server's version, such as 7.2.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// This version.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// The first number: 7 of 7.2.4.
    #[must_use]
    pub const fn major(self) -> u32 {
        self.major
    }

    /// The second number: 2 of 7.2.4.
    #[must_use]
    pub const fn minor(self) -> u32 {
        self.minor
    }

    /// The third number: 4 of 7.2.4.
    #[must_use]
    pub const fn patch(self) -> u32 {
        self.patch
    }

    /// Reads `7.2.4`, `8.2` or `7.4.0-rc1`; what is missing is 0.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut numbers = text[..end].split('.').map(|number| number.parse().ok());
        let major = numbers.next()??;
        let mut next = || numbers.next().flatten().unwrap_or(0);
        Some(Self { major, minor: next(), patch: next() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_read_with_what_may_follow() {
        let read = |text| Version::parse(text);
        assert!(read("6.10.0") > read("6.2.14"));
        assert_eq!(read("7.4.0-rc1"), Some(Version::new(7, 4, 0)));
        assert_eq!(read("8"), Some(Version::new(8, 0, 0)));
        assert_eq!(read("7.2").unwrap().to_string(), "7.2.0");
        for nonsense in ["", "x", ".", "99999999999.1", "-1"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
    }
}
