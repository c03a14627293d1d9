//! HTTP dates (RFC 9110, section 5.6.7).

use http::{HeaderMap, HeaderName};
use std::time::SystemTime;

/// The date in a field. `None` if it is not there or is no date; of several lines, the first counts.
pub(crate) fn of(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    parse(headers.get(name)?.to_str().ok()?)
}

const WEEKDAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Reads the three forms that there are, names and `GMT` in any case, and nothing else. Which weekday
/// it says does not matter: the rest is a date without.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    // Longer than any date there is.
    if text.len() > 40 {
        return None;
    }
    let text = canonical(text);
    httpdate::parse_http_date(&text).ok().or_else(|| on_its_weekday(&text))
}

/// The parser knows what day it was, and takes no other.
fn on_its_weekday(text: &str) -> Option<SystemTime> {
    let (said, date) = text.split_at(text.find(|letter: char| !letter.is_ascii_alphabetic())?);
    let forms = WEEKDAYS.map(|day| if said.len() == 3 { &day[..3] } else { day });
    if !forms.contains(&said) {
        return None;
    }
    forms.iter().find_map(|day| httpdate::parse_http_date(&format!("{day}{date}")).ok())
}

/// Words in the case that the parser knows them in.
fn canonical(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    let mut in_word = false;
    for letter in text.chars() {
        words.push(if in_word { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() });
        in_word = letter.is_ascii_alphabetic();
    }
    match words.strip_suffix(" Gmt") {
        Some(date) => format!("{date} GMT"),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn the_three_forms_are_read_in_any_case() {
        let expected = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "sUN, 06 nOV 1994 08:49:37 gmt",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Friday, 06-Nov-94 08:49:37 GMT",
            "Thu Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_date() {
        for text in [
            "0",
            "",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 AEST",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sunday, 06 Nov 1994 08:49:37 GMT",
            "Sol, 06 Nov 1994 08:49:37 GMT",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,45}") {
            let _ = parse(&text);
        }

        #[test]
        fn nearly_a_date_does_not_panic_either(at in 0usize..29, to in any::<char>()) {
            let mut text: Vec<_> = "Sun, 06 Nov 1994 08:49:37 GMT".chars().collect();
            text[at] = to;
            let _ = parse(&text.into_iter().collect::<String>());
        }
    }
}
