//! What a stored response carries, so that a purge finds it.

use crate::{key::digest, store::StoreError};
use std::{fmt, sync::Arc};

/// A digest's characters.
const LENGTH: usize = 22;

/// The longest name of a tag, in bytes.
pub(crate) const MAX_NAME: usize = 256;

/// So many of the parts of a path are tags of its responses.
pub(crate) const MAX_PREFIXES: usize = 8;

/// Whether purged responses may still be of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Purge {
    /// They are stale from now on: still there for
    /// [`stale_while_revalidate`](crate::cache::CacheLayer::stale_while_revalidate),
    /// [`stale_if_error`](crate::cache::CacheLayer::stale_if_error), and a proxy's validation. Both
    /// windows begin with the purge.
    Soft,
    /// They are the answer to nothing any more.
    Hard,
}

/// What a purge names: 22 characters, which stand for any name in as much space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag([u8; LENGTH]);

impl Tag {
    /// The tag of every response, which is not stored with any of them. No digest has an asterisk.
    pub const ALL: Tag = Tag([b'*'; LENGTH]);

    /// The tag with a name of the application's own.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_refused`] if the name is empty or longer than 256 bytes.
    pub fn named(name: &str) -> Result<Self, StoreError> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(StoreError::refused(format!(
                "the name of a tag has 1 to {MAX_NAME} bytes, and {:?} has {}; name what changes, \
                 such as \"post:7\"",
                name.chars().take(40).collect::<String>(),
                name.len(),
            )));
        }
        Ok(Self::of([b"tag".as_slice(), name.as_bytes()]))
    }

    /// The tag of a URI's responses, whatever the scheme and the variant. The host is in lower case.
    pub(crate) fn uri(host: &str, target: &str) -> Self {
        Self::of([b"uri".as_slice(), host.as_bytes(), target.as_bytes()])
    }

    /// The tag of a group (RFC 9875) of one origin. The scheme is empty if it is not known.
    pub(crate) fn group(scheme: &str, host: &str, name: &str) -> Self {
        Self::of([b"group".as_slice(), scheme.as_bytes(), host.as_bytes(), name.as_bytes()])
    }

    /// The tag of all paths that begin with these parts.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_refused`] if it does not begin with a slash, or has more than eight parts.
    pub(crate) fn prefix(prefix: &str) -> Result<Self, StoreError> {
        let fault = match prefix.strip_prefix('/') {
            None => "does not begin with a `/`",
            Some(_) if prefix.contains(['?', '#']) => "is more than a path",
            Some(_) if ends(trimmed(prefix)).count() > MAX_PREFIXES => "has too many parts",
            Some("") => return Ok(Self::ALL),
            Some(_) => return Ok(Self::path(trimmed(prefix))),
        };
        Err(StoreError::refused(format!(
            "the prefix {:?} {fault}; write 1 to {MAX_PREFIXES} parts of a path, such as \"/posts\"",
            prefix.chars().take(80).collect::<String>(),
        )))
    }

    /// The tags of all such prefixes of a path, the first eight.
    pub(crate) fn prefixes(path: &str) -> impl Iterator<Item = Self> {
        let path = trimmed(path);
        ends(path).take(MAX_PREFIXES).map(move |end| Self::path(&path[..end]))
    }

    fn path(path: &str) -> Self {
        Self::of([b"path".as_slice(), path.as_bytes()])
    }

    fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut tag = [b'-'; LENGTH];
        for (place, byte) in tag.iter_mut().zip(digest(parts).bytes()) {
            *place = byte;
        }
        Self(tag)
    }

    /// Reads what [`as_str`](Tag::as_str) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_*".contains(byte);
        let bytes = <[u8; LENGTH]>::try_from(text.as_bytes()).ok()?;
        bytes.iter().all(legal).then_some(Self(bytes))
    }

    /// Its characters: letters, digits, `-`, `_` and `*`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Without its query, and without a slash at its end.
fn trimmed(path: &str) -> &str {
    let path = path.split('?').next().unwrap_or_default();
    path.strip_suffix('/').unwrap_or(path)
}

/// Where the parts of a path that begins with a slash end.
fn ends(path: &str) -> impl Iterator<Item = usize> {
    let last = (!path.is_empty()).then_some(path.len());
    path.match_indices('/').map(|(at, _)| at).skip(1).chain(last)
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The tags of one response, each of them once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Arc<str>);

impl Tags {
    /// Reads what [`as_str`](Tags::as_str) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut chunks = text.as_bytes().chunks(LENGTH).map(str::from_utf8);
        let readable = chunks.all(|chunk| chunk.ok().and_then(Tag::parse).is_some());
        readable.then(|| Self(text.into()))
    }

    /// All of them, one behind the other.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Tag> {
        self.0
            .as_bytes()
            .chunks_exact(LENGTH)
            .filter_map(|chunk| Some(Tag(chunk.try_into().ok()?)))
    }
}

impl FromIterator<Tag> for Tags {
    fn from_iter<T: IntoIterator<Item = Tag>>(tags: T) -> Self {
        let mut tags: Vec<_> = tags.into_iter().collect();
        tags.sort_unstable();
        tags.dedup();
        Self(tags.iter().map(Tag::as_str).collect::<String>().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_neither_empty_nor_endless_and_the_error_says_what_to_do() {
        assert!(Tag::named("x").is_ok() && Tag::named(&"x".repeat(256)).is_ok());
        for name in ["", &"x".repeat(257)] {
            let error = Tag::named(name).unwrap_err();
            assert!(error.is_refused() && error.to_string().contains("post:7"), "{error}");
        }
    }

    #[test]
    fn kinds_of_tags_never_meet() {
        let same = "a.example";
        let kinds = [
            Tag::named(same).unwrap(),
            Tag::uri(same, ""),
            Tag::group("", same, ""),
            Tag::group(same, "", ""),
            Tag::prefix("/a.example").unwrap(),
            Tag::ALL,
        ];
        let distinct: std::collections::HashSet<_> = kinds.iter().collect();
        assert_eq!(distinct.len(), kinds.len());
    }

    #[test]
    fn a_prefix_is_of_whole_parts_and_a_slash_at_the_end_means_nothing() {
        let carries = |path: &str, prefix: &str| {
            let tag = Tag::prefix(prefix).unwrap();
            Tag::prefixes(path).any(|held| held == tag)
        };
        for path in ["/posts", "/posts/", "/posts?x=/y", "/posts/7", "/posts/7/", "/posts//x"] {
            assert!(carries(path, "/posts") && carries(path, "/posts/"), "{path}");
        }
        for path in ["/", "", "/post", "/postscript", "/a/posts", "/Posts", "/?x=/posts"] {
            assert!(!carries(path, "/posts"), "{path}");
        }
        assert!(carries("/posts/7/x", "/posts/7") && !carries("/posts/7", "/posts/7/x"));
        assert!(carries("/a//b", "/a//b") && !carries("/a/b", "/a//b"));
        assert_eq!(Tag::prefix("/").unwrap(), Tag::ALL);
    }

    #[test]
    fn a_deep_path_has_eight_prefixes_and_a_deeper_prefix_is_refused() {
        assert_eq!(Tag::prefixes(&"/a".repeat(20)).count(), 8);
        assert_eq!(Tag::prefixes("/").count(), 0);
        assert!(Tag::prefix(&"/a".repeat(8)).is_ok());
        for prefix in [&"/a".repeat(9), "", "posts", "/posts?x", "http://a.example/posts"] {
            let error = Tag::prefix(prefix).unwrap_err();
            assert!(error.is_refused() && error.to_string().contains("/posts"), "{error}");
        }
    }

    #[test]
    fn tags_are_read_as_they_were_written() {
        let all: Vec<_> = ["a", "b", "c"].iter().map(|name| Tag::named(name).unwrap()).collect();
        let tags: Tags = all.iter().chain(&all).copied().collect();
        assert_eq!(Tags::parse(tags.as_str()), Some(tags.clone()));
        assert_eq!(tags.iter().count(), 3);
        assert!(all.iter().all(|tag| tags.iter().any(|held| held == *tag)));
        assert_eq!(Tags::parse(""), Some(Tags::default()));
        for text in ["x", &tags.as_str()[1..], &"|".repeat(22), &"ü".repeat(11)] {
            assert_eq!(Tags::parse(text), None, "{text}");
        }
    }
}
