use super::*;
use crate::session::{
    pending::Fresh,
    step::{Done, Made, Outcome, Step, Work},
    store::Delta,
};

const TERMS: Terms = Terms {
    idle: Duration::from_secs(60),
    absolute: None,
    throttle: None,
    limits: Limits::new(4, 60),
    persistent: false,
    clear_on_login: false,
    most_events: 2,
};

fn loaded(fields: &[(&str, &'static str)]) -> State {
    let token = Token::random();
    let fields: Fields =
        fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    State::loaded(TERMS, token, Record::new(token.hash(), TERMS.idle, fields), Duration::ZERO)
}

fn set(state: &mut State, name: &str, value: &'static str) {
    state.set(name, value.into()).unwrap();
}

fn login(state: &mut State, user: &str) {
    state.login(UserId::new(user)).unwrap();
}

fn delta(state: &mut State) -> Delta {
    match state.plan().unwrap() {
        Some(Step { work: Work::Commit { delta, .. }, .. }) => delta,
        _ => panic!("a live session is committed"),
    }
}

fn fresh(state: &mut State) -> Option<Fresh> {
    match state.plan().unwrap() {
        Some(Step { work: Work::Create { fresh, .. }, .. }) => Some(fresh),
        None => None,
        Some(_) => panic!("there is no live session"),
    }
}

fn names(fields: &Fields) -> Vec<&str> {
    fields.keys().map(|name| &**name).collect()
}

#[test]
fn increments_stay_increments_until_the_field_is_overwritten() {
    let mut state = loaded(&[("a", "10"), ("b", "1")]);
    assert_eq!(state.increment("a", 2).unwrap(), 12);
    assert_eq!(state.increment("a", -5).unwrap(), 7);
    set(&mut state, "b", "40");
    assert_eq!(state.increment("b", 2).unwrap(), 42);
    state.remove("a").unwrap();
    assert_eq!(state.increment("a", 1).unwrap(), 1);
    assert_eq!(state.increment("c", 3).unwrap(), 3);
    let changes = delta(&mut state).changes;
    assert_eq!(changes["a"], Change::Set("1".into()));
    assert_eq!(changes["b"], Change::Set("42".into()));
    assert_eq!(changes["c"], Change::Increment(3));
    state.increment("c", 4).unwrap();
    assert_eq!(delta(&mut state).changes["c"], Change::Increment(4));
}

#[test]
fn an_increment_that_no_store_would_take_is_refused_at_once() {
    let mut state = loaded(&[("low", "-9007199254740991"), ("text", "\"1\"")]);
    assert!(state.increment("text", 1).unwrap_err().is_not_an_integer());
    state.increment("low", policy::MAX_INTEGER).unwrap();
    assert!(state.increment("low", policy::MAX_INTEGER).unwrap_err().is_not_an_integer());
    assert_eq!(delta(&mut state).changes["low"], Change::Increment(policy::MAX_INTEGER));
}

#[test]
fn what_would_not_fit_is_refused_and_leaves_the_rest_as_it_was() {
    let mut state = loaded(&[("a", "1"), ("b", "1"), ("c", "1")]);
    set(&mut state, "d", "1");
    assert!(state.set("e", "1".into()).unwrap_err().is_too_large());
    assert!(state.increment("e", 1).unwrap_err().is_too_large());
    assert!(state.set("a", vec![b'1'; 54].into()).unwrap_err().is_too_large());
    state.set("a", vec![b'1'; 53].into()).unwrap();
    assert_eq!(names(state.fields()), ["a", "b", "c", "d"]);
    assert_eq!(delta(&mut state).changes.len(), 2);
}

#[test]
fn a_login_clears_what_another_request_put_into_an_empty_session_meanwhile() {
    let mut state = loaded(&[]);
    state.clear().unwrap();
    login(&mut state, "ann");
    set(&mut state, "a", "1");
    let delta = delta(&mut state);
    assert!(delta.clear && delta.changes.contains_key("a"));
}

#[test]
fn what_changes_nothing_is_not_worth_a_round_trip() {
    let mut state = loaded(&[]);
    state.remove("a").unwrap();
    state.clear().unwrap();
    assert!(state.plan().unwrap().is_none());
    let mut visitor = State::anonymous(TERMS, false);
    visitor.rotate();
    visitor.destroy();
    assert!(visitor.plan().unwrap().is_none());
    set(&mut visitor, "a", "1");
    visitor.remove("a").unwrap();
    assert!(visitor.plan().unwrap().is_none());
    assert!(visitor.cookie().is_none());
}

#[test]
fn a_session_that_is_gone_takes_no_more_changes_but_a_login() {
    let mut state = loaded(&[("a", "1")]);
    set(&mut state, "a", "2");
    state.plan().unwrap();
    assert!(state.settle(Outcome::Gone).unwrap_err().is_gone());
    set(&mut state, "b", "1");
    assert!(fresh(&mut state).is_none());
    set(&mut state, "c", "1");
    login(&mut state, "ann");
    set(&mut state, "d", "1");
    let fresh = fresh(&mut state).unwrap();
    assert_eq!((fresh.user.unwrap().as_str(), names(&fresh.fields)), ("ann", vec!["d"]));
}

#[test]
fn a_login_that_finds_its_session_gone_keeps_what_came_after_it() {
    let mut state = loaded(&[("n", "5")]);
    set(&mut state, "early", "1");
    state.increment("n", 1).unwrap();
    login(&mut state, "ann");
    set(&mut state, "late", "1");
    state.increment("n", 2).unwrap();
    let Some(Step { work: Work::Commit { rotated, delta, or_else, .. }, .. }) =
        state.plan().unwrap()
    else {
        panic!("a live session is committed");
    };
    assert!(rotated.is_some() && delta.idle.is_some());
    assert_eq!(delta.changes["n"], Change::Increment(3));
    let Fresh { user, fields, .. } = or_else.unwrap();
    assert_eq!(names(&fields), ["late", "n"]);
    assert_eq!(fields["n"], "2");
    // While the step was under way, one more field was set.
    set(&mut state, "later", "1");
    let token = Token::random();
    state.settle(Outcome::Replaced(Made { token, user, lasts: None }, fields)).unwrap();
    assert_eq!(names(state.fields()), ["late", "later", "n"]);
    assert_eq!(delta_names(&mut state), ["later"]);
}

fn delta_names(state: &mut State) -> Vec<String> {
    delta(state).changes.keys().map(|name| name.to_string()).collect()
}

#[test]
fn another_user_begins_with_nothing_whether_the_first_was_saved_or_not() {
    let mut visitor = State::anonymous(TERMS, false);
    login(&mut visitor, "ann");
    set(&mut visitor, "hers", "1");
    login(&mut visitor, "bob");
    set(&mut visitor, "his", "1");
    let fresh = fresh(&mut visitor).unwrap();
    assert_eq!((fresh.user.unwrap().as_str(), names(&fresh.fields)), ("bob", vec!["his"]));
}

#[test]
fn a_user_is_named_and_not_too_long() {
    let mut visitor = State::anonymous(TERMS, false);
    assert!(visitor.login(UserId::new("")).is_err());
    assert!(visitor.login(UserId::new("x".repeat(256))).is_err());
    assert!(visitor.user().is_none());
    login(&mut visitor, &"x".repeat(255));
}

#[test]
fn counters_show_what_concurrent_requests_made_of_them() {
    let mut state = loaded(&[("a", "1"), ("b", "1")]);
    state.increment("a", 1).unwrap();
    state.increment("b", 1).unwrap();
    let token = state.live.as_ref().unwrap().token;
    delta(&mut state);
    set(&mut state, "b", "7");
    let sums = vec![("a".into(), 50), ("b".into(), 60)];
    let done = Done { token, user: None, remembers: false, lasts: None, sums };
    state.settle(Outcome::Committed(done)).unwrap();
    assert_eq!((&state.fields()["a"][..], &state.fields()["b"][..]), (&b"50"[..], &b"7"[..]));
    assert!(state.cookie().is_none(), "the cookie is the same");
}

#[test]
fn without_the_store_nothing_is_changed_and_a_logout_is_not_pretended() {
    let mut state = State::read_only(TERMS, true);
    assert!(state.set("a", "1".into()).unwrap_err().is_unavailable());
    assert!(state.login(UserId::new("ann")).unwrap_err().is_unavailable());
    assert!(state.plan().unwrap().is_none());
    state.destroy();
    assert!(state.plan().err().unwrap().is_unavailable());
}
