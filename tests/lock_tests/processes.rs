//! A holder in another process that is paused or killed at its work.

use super::spy::{HOUR, PATIENCE, redis_at};
use crate::support::{
    process::{self, ChildApp},
    server::RedisServer,
};
use std::{env, future::pending, time::Duration};
use towerkeep::lock::{Guard, Locks};

const HOLDER: &str = "tests::processes::holder";

/// Not a test of its own: what the child processes run.
#[tokio::test]
async fn holder() {
    if !process::is_child(HOLDER) {
        return;
    }
    let locks = Locks::new(redis_at(&env::var("REDIS_URL").unwrap()).await);
    let ttl = Duration::from_secs(1);
    let guard = locks.lock("job").ttl(ttl).auto_renew().acquire().await.unwrap();
    process::announce(([127, 0, 0, 1], 1).into()); // it serves nobody, and is ready
    println!("fence {}", guard.fence());
    guard.lost().await;
    let checked = guard.check().unwrap_err().is_lost();
    println!("refused {}", checked && guard.release().await.unwrap_err().is_lost());
    pending::<()>().await;
}

/// A child that holds the lock, and its fence.
fn spawn_holder(server: &RedisServer) -> (ChildApp, u64) {
    let child = ChildApp::spawn(HOLDER, &[("REDIS_URL", &server.url())]);
    let line = child.wait_for_line("fence ");
    let (_, fence) = line.split_once("fence ").unwrap();
    let fence = fence.trim().parse().unwrap();
    (child, fence)
}

async fn take_over(server: &RedisServer) -> Guard {
    let locks = Locks::new(redis_at(&server.url()).await).poll(HOUR);
    locks.lock("job").ttl(HOUR).wait(PATIENCE).acquire().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_paused_past_its_ttl_finds_that_it_lost_the_lock() {
    let server = RedisServer::start();
    let (paused, fence) = spawn_holder(&server);
    paused.pause();
    let guard = take_over(&server).await;
    assert!(guard.fence() > fence);
    paused.resume();
    let line = paused.wait_for_line("refused ");
    assert!(line.contains("refused true"), "{line}");
    guard.renew().await.expect("the stale holder has changed nothing");
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_of_a_killed_holder_is_free_when_its_ttl_has_passed() {
    let server = RedisServer::start();
    let (killed, fence) = spawn_holder(&server);
    killed.kill();
    let guard = take_over(&server).await;
    assert!(guard.fence() > fence);
    guard.release().await.unwrap();
}
