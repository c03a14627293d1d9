//! Who the client is, case by case, and whatever a client may send.

use crate::client_addr::{ClientAddr, TrustedProxies};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header::FORWARDED};
use proptest::prelude::*;
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The peer of all requests that have come through the proxies.
const PROXY: &str = "10.0.0.1";

fn headers(name: &HeaderName, lines: &[&[u8]]) -> HeaderMap {
    let line = |line: &&[u8]| (name.clone(), HeaderValue::from_bytes(line).unwrap());
    lines.iter().map(line).collect()
}

fn networks() -> TrustedProxies {
    TrustedProxies::networks(["10.0.0.0/8", "192.0.2.1", "fd00::/8"]).unwrap()
}

fn client(proxies: &TrustedProxies, peer: &str, headers: &HeaderMap) -> String {
    proxies.client(peer.parse().unwrap(), headers).to_string()
}

#[test]
fn the_client_is_the_first_who_is_not_trusted_from_the_end() {
    for (peer, lines, expected) in [
        // As it should be, and longer chains.
        (PROXY, &["203.0.113.7"] as &[&str], "203.0.113.7"),
        (PROXY, &["203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        (PROXY, &["203.0.113.7,192.0.2.1 ,\t10.9.9.9"], "203.0.113.7"),
        (PROXY, &["2001:db8::7, fd12::1"], "2001:db8::7"),
        // Nobody vouches for it.
        ("198.51.100.9", &["203.0.113.7"], "198.51.100.9"),
        ("198.51.100.9", &["10.0.0.2"], "198.51.100.9"),
        ("192.0.2.2", &["203.0.113.7"], "192.0.2.2"),
        (PROXY, &[], PROXY),
        // What the client has begun.
        (PROXY, &["1.2.3.4, 203.0.113.7"], "203.0.113.7"),
        (PROXY, &["10.0.0.9, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        (PROXY, &["1.2.3.4", "203.0.113.7"], "203.0.113.7"),
        (PROXY, &["1.2.3.4, 5.6.7.8", "203.0.113.7, 10.0.0.3", "10.0.0.2"], "203.0.113.7"),
        (PROXY, &["\"", "203.0.113.7"], "203.0.113.7"),
        // All are trusted: the foremost.
        (PROXY, &["10.0.0.4, 10.0.0.3", "10.0.0.2"], "10.0.0.4"),
        // Ports and brackets.
        (PROXY, &["203.0.113.7:4711"], "203.0.113.7"),
        (PROXY, &["[2001:db8::7]"], "2001:db8::7"),
        (PROXY, &["[2001:db8::7]:65535, 10.0.0.2:80"], "2001:db8::7"),
        (PROXY, &["[2001:db8::7]:65536"], PROXY),
        (PROXY, &["203.0.113.7:"], PROXY),
        (PROXY, &["203.0.113.7:+80"], PROXY),
        (PROXY, &["[203.0.113.7]:80"], PROXY),
        (PROXY, &["[2001:db8::7"], PROXY),
        (PROXY, &["[2001:db8::7]80"], PROXY),
        // IPv4-mapped, as an entry, as a proxy and as the peer.
        (PROXY, &["::ffff:203.0.113.7"], "203.0.113.7"),
        (PROXY, &["203.0.113.7, [::ffff:10.0.0.2]:80"], "203.0.113.7"),
        ("::ffff:10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
        ("::ffff:198.51.100.9", &["203.0.113.7"], "198.51.100.9"),
        // It stops where an entry is no address: at the last hop that is known.
        (PROXY, &["203.0.113.7, unknown"], PROXY),
        (PROXY, &["203.0.113.7, unknown, 10.0.0.2"], "10.0.0.2"),
        (PROXY, &["203.0.113.7, _hidden"], PROXY),
        (PROXY, &["203.0.113.7,"], PROXY),
        (PROXY, &["203.0.113.7,, 10.0.0.2"], "10.0.0.2"),
        (PROXY, &["203.0.113.7", ""], PROXY),
        (PROXY, &["fe80::1%eth0"], PROXY),
        (PROXY, &["[fe80::1%25eth0]:80"], PROXY),
        (PROXY, &["203.0.113.07"], PROXY),
        (PROXY, &["203.0.113"], PROXY),
        (PROXY, &["3405803783"], PROXY),
        (PROXY, &["203.0.113.7 10.0.0.2"], PROXY),
        (PROXY, &["localhost"], PROXY),
        (PROXY, &["for=203.0.113.7"], PROXY),
        (PROXY, &["203.0.113.7, \u{e9}t\u{e9}, 10.0.0.2"], "10.0.0.2"),
        (PROXY, &["\u{661}\u{660}.0.0.1"], PROXY),
    ] {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let headers = headers(&X_FORWARDED_FOR, &lines);
        assert_eq!(client(&networks(), peer, &headers), expected, "{peer} {headers:?}");
    }
}

#[test]
fn rfc_7239_is_understood_and_nothing_else_in_its_place() {
    for (lines, expected) in [
        (&["for=203.0.113.7"] as &[&str], "203.0.113.7"),
        (&["For=203.0.113.7;proto=https;by=10.0.0.1"], "203.0.113.7"),
        (&["proto=https; FOR=\"203.0.113.7:4711\" ;by=_lb"], "203.0.113.7"),
        (&["for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
        (&["for=\"[2001:db8::1]\", for=10.0.0.2;by=\"[fd00::1]\""], "2001:db8::1"),
        (&["for=\"\\2\\03.0.113.\\7\""], "203.0.113.7"),
        (&["for=\"203.0.113.7:_4711\""], "203.0.113.7"),
        (&["for=203.0.113.7;ext=\"a, b; for=1.2.3.4 \\\" \\\\\""], "203.0.113.7"),
        (&["host=\"\\\";\\\\\";for=203.0.113.7"], "203.0.113.7"),
        (&["for=203.0.113.7;"], "203.0.113.7"),
        (&["for=1.2.3.4", "for=203.0.113.7, for=10.0.0.2"], "203.0.113.7"),
        // A quote that the client opens does not swallow what the proxy adds.
        (&["for=\", for=203.0.113.7"], "203.0.113.7"),
        (&["for=\"\\, for=\"203.0.113.7\""], "203.0.113.7"),
        (&["for=\"1.2.3.4", "for=203.0.113.7;host=\"a,b\""], "203.0.113.7"),
        // No address.
        (&["for=203.0.113.7, for=unknown"], PROXY),
        (&["for=203.0.113.7, for=\"_gazonk\", for=10.0.0.2"], "10.0.0.2"),
        (&["for=203.0.113.7, proto=https"], PROXY),
        (&["for=203.0.113.7;for=203.0.113.8"], PROXY),
        (&["for=203.0.113.7;proto"], PROXY),
        (&["for=\"203.0.113.7"], PROXY),
        (&["for=203.0.113.7\""], PROXY),
        (&["for=\"203\".0.113.7\""], PROXY),
        (&["for=\"203.0.113.7\\"], PROXY),
        (&["for="], PROXY),
        (&["for=\""], PROXY),
        (&["203.0.113.7"], PROXY),
        (&["for=203.0.113.7,"], PROXY),
        (&["before=203.0.113.7"], PROXY),
    ] {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let mut headers = headers(&FORWARDED, &lines);
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("5.6.7.8"));
        assert_eq!(client(&networks().forwarded(), PROXY, &headers), expected, "{headers:?}");
        assert_eq!(client(&networks(), PROXY, &headers), "5.6.7.8");
    }
}

#[test]
fn so_many_hops_are_counted_from_the_end() {
    for (hops, list, expected) in [
        (0, "203.0.113.7", PROXY),
        (1, "1.2.3.4, 203.0.113.7", "203.0.113.7"),
        (2, "1.2.3.4, 203.0.113.7, 198.51.100.1", "203.0.113.7"),
        (2, "203.0.113.7, unknown", PROXY),
        (2, "unknown, 198.51.100.1", "198.51.100.1"),
        // Too few: it has not come through all of them.
        (2, "1.2.3.4", PROXY),
        (255, "1.2.3.4, 5.6.7.8", PROXY),
    ] {
        let headers = headers(&X_FORWARDED_FOR, &[list.as_bytes()]);
        let proxies = TrustedProxies::hops(hops);
        assert_eq!(client(&proxies, PROXY, &headers), expected, "{hops} {list}");
    }
    assert_eq!(client(&TrustedProxies::hops(1), PROXY, &HeaderMap::new()), PROXY);
}

#[test]
fn a_network_is_what_its_prefix_says_ipv4_mapped_or_not() {
    for (network, within, without) in [
        ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
        ("10.128.0.0/9", "10.128.0.1", "10.127.255.255"),
        ("192.0.2.1", "192.0.2.1", "192.0.2.0"),
        ("192.0.2.4/31", "192.0.2.5", "192.0.2.6"),
        ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ("fd00::/8", "fdff::1", "fc00::1"),
        ("2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"),
        ("::1", "::1", "::2"),
        ("128.0.0.0/1", "::ffff:203.0.113.1", "2001:db8::1"),
        ("8000::/1", "fd00::1", "203.0.113.1"),
    ] {
        let proxies = TrustedProxies::networks([network]).unwrap();
        let headers = headers(&X_FORWARDED_FOR, &[b"198.51.100.7"]);
        assert_eq!(client(&proxies, within, &headers), "198.51.100.7", "{network}");
        assert_eq!(client(&proxies, without, &headers), without, "{network}");
    }
}

#[test]
fn a_network_that_cannot_be_is_refused_with_its_value_and_the_fix() {
    for (bad, fix) in [
        ("10.0.0.0/33", "such as"),
        ("10.0.0.0/", "such as"),
        ("10.0.0.0/+8", "such as"),
        ("10.0.0/8", "such as"),
        ("fd00::/129", "such as"),
        ("10.0.0.0/8 ", "such as"),
        ("proxy.internal", "such as"),
        ("", "such as"),
        ("10.0.0.1/8", "write \"10.0.0.0/8\" for the network, or \"10.0.0.1\""),
        ("fd00::1/8", "write \"fd00::/8\""),
        ("0.0.0.0/0", "TrustedProxies::hops"),
        ("::/0", "TrustedProxies::hops"),
    ] {
        let error = TrustedProxies::networks(["192.0.2.1", bad]).unwrap_err().to_string();
        assert!(error.contains(&format!("{bad:?}")) && error.contains(fix), "{bad}: {error}");
    }
}

#[test]
fn long_headers_are_looked_at_as_far_as_a_chain_of_proxies_goes() {
    let longest = "203.0.113.7".to_owned() + &", 10.0.0.2".repeat(254);
    let too_long = format!("{longest}, 10.0.0.2");
    let padded = format!("for=203.0.113.7;pad={}", "x".repeat(980));
    let long_node = format!("for=\"{}\"", "1".repeat(100));
    let too_padded = format!("for=203.0.113.7;pad={}", "x".repeat(1_100));
    for (list, expected) in [(longest, "203.0.113.7"), (too_long, "10.0.0.2")] {
        let headers = headers(&X_FORWARDED_FOR, &[list.as_bytes()]);
        assert_eq!(client(&networks(), PROXY, &headers), expected);
    }
    for (list, expected) in [(padded, "203.0.113.7"), (too_padded, PROXY), (long_node, PROXY)] {
        for list in [list.clone(), format!("for=1.2.3.4, {list}")] {
            let headers = headers(&FORWARDED, &[list.as_bytes()]);
            assert_eq!(client(&networks().forwarded(), PROXY, &headers), expected);
        }
    }
}

#[test]
fn what_was_found_is_left_for_those_further_in() {
    let request = |peer: &str| {
        let mut request = Request::new(());
        let peer = format!("{peer}:4711").parse().unwrap();
        request.extensions_mut().insert(crate::PeerAddr::new(peer));
        request
    };
    let mut plain = request(PROXY);
    assert_eq!(networks().identify(&mut plain).unwrap().to_string(), PROXY);
    assert!(plain.extensions().get::<ClientAddr>().is_none(), "the peer says it already");

    let mut proxied = request(PROXY);
    proxied.headers_mut().insert(X_FORWARDED_FOR, HeaderValue::from_static("203.0.113.7"));
    networks().identify(&mut proxied);
    let found = |request: &Request<()>| ClientAddr::of(request.extensions()).unwrap().to_string();
    assert_eq!(found(&proxied), "203.0.113.7");
    TrustedProxies::hops(0).identify(&mut proxied);
    assert_eq!(
        found(&proxied),
        PROXY,
        "a setting of one's own comes before what was found outside"
    );

    assert_eq!(found(&request("[::ffff:10.0.0.1]")), PROXY);
    assert_eq!(networks().identify(&mut Request::new(())), None);
}

/// What a header may hold, with more of what means something.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => prop::sample::select(b",;\"\\=[]:_. \t01affor%".to_vec()),
        1 => 0x20..0x7f_u8,
        1 => 0x80..=0xff_u8,
    ];
    let hop = prop::sample::select(vec![
        "10.0.0.2",
        "for=10.0.0.2",
        "for=\"[fd00::1]:1\"",
        "203.0.113.9",
        "unknown",
        "for=\"",
        "\\",
        ", ",
    ]);
    let piece = prop_oneof![
        prop::collection::vec(byte, 0..12),
        hop.prop_map(|hop| hop.as_bytes().to_vec()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Where a client is, as proxies write it.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ]
    .prop_filter("a client", |address| {
        networks().client(*address, &headers(&X_FORWARDED_FOR, &[b"192.0.2.77"])) == *address
    })
}

proptest! {
    #[test]
    fn whatever_stands_in_the_header_someone_is_the_client(
        lines in prop::collection::vec(text(), 0..4),
        hops in any::<u8>(),
    ) {
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        for name in [X_FORWARDED_FOR, FORWARDED] {
            let headers = headers(&name, &lines);
            for proxies in [networks(), TrustedProxies::hops(hops)] {
                client(&proxies, PROXY, &headers);
                client(&proxies.forwarded(), PROXY, &headers);
            }
        }
    }

    #[test]
    fn what_a_client_puts_in_front_changes_nothing(
        forged in text(),
        own_line in any::<bool>(),
        address in address(),
        further in 0..3_usize,
    ) {
        let canonical = address.to_canonical();
        let node = match address {
            IpAddr::V4(v4) => format!("for={v4};proto=http"),
            IpAddr::V6(v6) => format!("host=\"a,b\\\"\";for=\"[{v6}]:4711\""),
        };
        let written = [
            (X_FORWARDED_FOR, networks(), address.to_string() + &", 10.0.0.2".repeat(further)),
            (FORWARDED, networks().forwarded(), node + &", for=10.0.0.2".repeat(further)),
        ];
        for (name, proxies, appended) in written {
            let joined = [&forged[..], b", ", appended.as_bytes()].concat();
            let headers = match own_line {
                true => headers(&name, &[&forged, appended.as_bytes()]),
                false => headers(&name, &[&joined]),
            };
            let counted = TrustedProxies::hops(further as u8 + 1);
            let counted = if name == FORWARDED { counted.forwarded() } else { counted };
            for proxies in [proxies, counted] {
                prop_assert_eq!(proxies.client(PROXY.parse().unwrap(), &headers), canonical);
            }
        }
    }

    #[test]
    fn a_network_holds_what_shares_its_bits(base: u128, other: u128, prefix in 1..=128_u32) {
        let mask = u128::MAX << (128 - prefix);
        let base = std::net::Ipv6Addr::from_bits(base & mask);
        prop_assume!(base.to_ipv4_mapped().is_none());
        // Half of them lie within.
        let other = if other % 2 == 0 { other } else { base.to_bits() | (other & !mask) };
        let peer = IpAddr::V6(other.into());
        prop_assume!(peer.to_canonical().is_ipv6());
        let proxies = TrustedProxies::networks([format!("{base}/{prefix}")]).unwrap();
        let found = proxies.client(peer, &headers(&X_FORWARDED_FOR, &[b"192.0.2.77"]));
        prop_assert_eq!(found != peer, other & mask == base.to_bits());
    }
}
