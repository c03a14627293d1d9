use super::server::{Server, until};
use crate::pubsub::{Hint, Subscription};
use std::time::Duration;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

async fn next(subscription: &mut Subscription) -> Hint {
    timeout(LONG, subscription.recv()).await.expect("a hint")
}

fn message(text: &'static str) -> Hint {
    Hint::Message(text.into())
}

#[tokio::test]
async fn a_hint_reaches_subscribers_in_every_process() {
    let server = Server::start().await;
    let (here, there) = (server.connect().await, server.connect().await);
    let mut first = here.hints().subscribe("a");
    let mut second = here.hints().subscribe("a");
    let mut other = here.hints().subscribe("b");
    assert!(first.ready(LONG).await && second.ready(LONG).await && other.ready(LONG).await);
    there.hints().publish("a", "1".into()).await.unwrap();
    // As a script does it.
    there.query::<()>(redis::cmd("PUBLISH").arg("b").arg("2")).await.unwrap();
    assert_eq!(next(&mut first).await, message("1"));
    assert_eq!(next(&mut second).await, message("1"));
    assert_eq!(next(&mut other).await, message("2"));
    let list: String = here.query(redis::cmd("CLIENT").arg("LIST")).await.unwrap();
    assert_eq!(list.lines().count(), 3, "one pub/sub connection: {list}");
}

#[tokio::test]
async fn the_server_is_unsubscribed_when_the_last_subscriber_leaves() {
    let server = Server::start().await;
    let connection = server.connect().await;
    let channels = async || {
        let list: Vec<String> =
            connection.query(redis::cmd("PUBSUB").arg("CHANNELS")).await.unwrap();
        list.len()
    };
    let hints = connection.hints();
    let mut subscriptions: Vec<_> =
        (0..1500).map(|n| hints.subscribe(&format!("channel:{}", n % 1000))).collect();
    for subscription in &mut subscriptions {
        assert!(subscription.ready(LONG).await);
    }
    assert_eq!(channels().await, 1000);
    subscriptions.truncate(1000);
    let mut last = hints.subscribe("last");
    assert!(last.ready(LONG).await);
    assert_eq!(channels().await, 1001);
    subscriptions.clear();
    until("unsubscribed", || async { channels().await == 1 }).await;
    // Left and joined again: still in force.
    drop(last);
    let mut last = hints.subscribe("last");
    assert!(last.ready(LONG).await);
    hints.publish("last", "x".into()).await.unwrap();
    assert_eq!(next(&mut last).await, message("x"));
}

#[tokio::test]
async fn subscribers_are_told_to_resynchronise_and_are_subscribed_again_after_a_restart() {
    let mut server = Server::start().await;
    let connection = server.connect().await;
    let hints = connection.hints();
    let mut subscription = hints.subscribe("a");
    assert!(subscription.ready(LONG).await);
    server.kill();
    assert_eq!(next(&mut subscription).await, Hint::Resync);
    let mut late = hints.subscribe("late");
    assert!(!late.ready(Duration::from_millis(20)).await, "the server is down");
    server.restart().await;
    assert_eq!(next(&mut subscription).await, Hint::Resync, "once more, now that it is in force");
    assert_eq!(next(&mut late).await, Hint::Resync);
    assert!(subscription.ready(LONG).await && late.ready(LONG).await);
    until("the link is back", || async { connection.ping(LONG).await.is_ok() }).await;
    hints.publish("a", "back".into()).await.unwrap();
    assert_eq!(next(&mut subscription).await, message("back"));
}

#[tokio::test]
async fn publishing_to_a_dropped_connection_is_an_error() {
    let server = Server::start().await;
    let hints = server.connect().await.hints();
    assert!(hints.publish("a", "x".into()).await.unwrap_err().is_unavailable());
}
