//! A lease that is held: renewed while it is needed, its loss told, released on drop.

use crate::{
    clock::Clock,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
    telemetry,
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{self, Instant},
};

/// How long a release in the background is tried again.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// The pause after the first failure of such a release; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What a store can do with a lease that was granted. The token is the implementation's.
pub(crate) trait LeaseOps: Send + Sync + 'static {
    /// Stretches the lease to its full length from now; `false` if it is not ours any more.
    fn renew(&self) -> StoreFuture<bool>;

    /// Gives the lease up; `false` if it was not ours any more.
    fn release(&self) -> StoreFuture<bool>;
}

/// A lease that was granted.
///
/// Its holder goes by a deadline on its own monotonic clock, counted from *before* the request that
/// was granted went out and a little short of the lease's length, so it never believes longer than
/// the store in what it holds. A lease that was lost stays lost.
pub(crate) struct Lease {
    ops: Arc<dyn LeaseOps>,
    middleware: &'static str,
    length: Duration,
    tasks: Tasks,
    timer: Timer,
    state: watch::Sender<State>,
    renewal: Option<JoinHandle<()>>,
    /// Where it was granted, and is released by a drop elsewhere.
    runtime: Option<Handle>,
    released: bool,
}

/// The clock that a lease is measured by: the monotonic one, or the one that a test moves.
#[derive(Clone)]
pub(crate) struct Timer {
    started: Instant,
    /// And what it showed at the start.
    manual: Option<(Clock, u64)>,
}

impl Timer {
    /// Starts now: to be called before the request goes out that the lease is asked for with.
    pub(crate) fn start(clock: Clock) -> Self {
        let manual = clock.override_us().map(|now_us| (clock, now_us));
        Self { started: Instant::now(), manual }
    }

    fn at(started: Instant) -> Self {
        Self { started, manual: None }
    }

    fn now(&self) -> Instant {
        match &self.manual {
            None => Instant::now(),
            Some((clock, start_us)) => {
                self.started + Duration::from_micros(clock.now_us().saturating_sub(*start_us))
            }
        }
    }

    async fn sleep_until(&self, then: Instant) {
        match &self.manual {
            None => time::sleep_until(then).await,
            Some((clock, start_us)) => {
                let after = then.saturating_duration_since(self.started);
                clock.moved_to(start_us + after.as_micros() as u64).await;
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct State {
    deadline: Instant,
    /// The store said so, or the deadline has passed and was seen to.
    lost: bool,
}

impl State {
    fn is_lost(&self, timer: &Timer) -> bool {
        self.lost || self.deadline <= timer.now()
    }
}

impl Lease {
    /// A lease of `length` that was asked for at `asked_at`.
    pub(crate) fn new(
        ops: Arc<dyn LeaseOps>,
        middleware: &'static str,
        asked_at: std::time::Instant,
        length: Duration,
        tasks: Tasks,
    ) -> Self {
        let timer = Timer::at(Instant::from_std(asked_at));
        Self::timed(ops, middleware, timer, length, tasks)
    }

    /// A lease of `length` that was asked for when `timer` was started.
    pub(crate) fn timed(
        ops: Arc<dyn LeaseOps>,
        middleware: &'static str,
        timer: Timer,
        length: Duration,
        tasks: Tasks,
    ) -> Self {
        let state = State { deadline: timer.started + certain(length), lost: false };
        let (state, runtime) = (watch::Sender::new(state), Handle::try_current().ok());
        let renewal = None;
        Self { ops, middleware, length, tasks, timer, state, renewal, runtime, released: false }
    }

    /// Renews it at every third of its length until it is stopped, released or lost.
    pub(crate) fn auto_renew(&mut self) {
        if self.renewal.is_none() {
            let (ops, timer, state) = (self.ops.clone(), self.timer.clone(), self.state.clone());
            let first = timer.now() + self.length / 3;
            let renewal = renew(ops, self.middleware, self.length, timer, state, first);
            self.renewal = Some(tokio::spawn(renewal));
        }
    }

    /// How long it is certainly held yet; zero once it is lost.
    pub(crate) fn valid_for(&self) -> Duration {
        let state = *self.state.borrow();
        if state.lost {
            return Duration::ZERO;
        }
        state.deadline.saturating_duration_since(self.timer.now())
    }

    /// Whether somebody else may hold it by now.
    pub(crate) fn is_lost(&self) -> bool {
        self.valid_for().is_zero()
    }

    /// Asks who wants to know of the loss.
    pub(crate) fn watch(&self) -> LeaseWatch {
        LeaseWatch(self.state.subscribe(), self.timer.clone())
    }

    /// Renews it once, now; `false` if it is lost.
    pub(crate) async fn renew(&self) -> Result<bool, StoreError> {
        renew_once(&self.ops, self.length, &self.timer, &self.state).await
    }

    /// Ends the renewal and waits for the end of one that is on its way, so that no renewal comes
    /// after what the holder does next.
    pub(crate) async fn stop_renewal(&mut self) {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
            let _ = renewal.await;
        }
    }

    /// Says that nothing is left to release: the lease ended in another way.
    pub(crate) fn disarm(&mut self) {
        self.released = true;
    }

    /// Gives it up; `false` if it was lost before.
    pub(crate) async fn release(mut self) -> Result<bool, StoreError> {
        self.stop_renewal().await;
        let result = self.ops.release().await;
        // What failed is tried once more by the drop.
        self.released = result.is_ok();
        result
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let renewal = self.renewal.take();
        if let Some(renewal) = &renewal {
            renewal.abort();
        }
        if self.released {
            return;
        }
        let (ops, middleware, valid_for) = (self.ops.clone(), self.middleware, self.valid_for());
        let _there = self.runtime.as_ref().map(Handle::enter);
        self.tasks.spawn_if_possible(async move {
            if let Some(renewal) = renewal {
                let _ = renewal.await;
            }
            release_within(valid_for, middleware, || ops.release()).await;
        });
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("middleware", &self.middleware)
            .field("length", &self.length)
            .field("valid_for", &self.valid_for())
            .finish_non_exhaustive()
    }
}

/// Tells of the loss of a lease, for as long as anyone cares.
#[derive(Clone)]
pub(crate) struct LeaseWatch(watch::Receiver<State>, Timer);

impl LeaseWatch {
    /// Whether somebody else may hold it by now.
    pub(crate) fn is_lost(&self) -> bool {
        self.0.borrow().is_lost(&self.1)
    }

    /// Ends when the lease is lost: when the store says so, or when its deadline passes unrenewed.
    pub(crate) async fn lost(&mut self) {
        loop {
            let state = *self.0.borrow_and_update();
            if state.is_lost(&self.1) {
                return;
            }
            tokio::select! {
                () = self.1.sleep_until(state.deadline) => {}
                changed = self.0.changed() => if changed.is_err() {
                    self.1.sleep_until(state.deadline).await;
                },
            }
        }
    }
}

impl fmt::Debug for LeaseWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseWatch(lost: {})", self.is_lost())
    }
}

/// Renews until the lease is lost. A failure of the store is tried again until the deadline: the
/// lease is ours until then.
async fn renew(
    ops: Arc<dyn LeaseOps>,
    middleware: &'static str,
    length: Duration,
    timer: Timer,
    state: watch::Sender<State>,
    mut due: Instant,
) {
    loop {
        timer.sleep_until(due).await;
        let asked_at = timer.now();
        match renew_once(&ops, length, &timer, &state).await {
            Ok(true) => due = asked_at + length / 3,
            Ok(false) => return,
            Err(error) => {
                telemetry::store_failed(middleware, &error);
                due = timer.now() + length / 20;
            }
        }
    }
}

async fn renew_once(
    ops: &Arc<dyn LeaseOps>,
    length: Duration,
    timer: &Timer,
    state: &watch::Sender<State>,
) -> Result<bool, StoreError> {
    let asked_at = timer.now();
    if state.borrow().is_lost(timer) {
        return Ok(false);
    }
    let ours = ops.renew().await?;
    state.send_modify(|state| {
        // A grant that comes after the deadline finds a holder who may have seen the loss already.
        if ours && !state.is_lost(timer) {
            state.deadline = state.deadline.max(asked_at + certain(length));
        } else {
            state.lost = true;
        }
    });
    Ok(!state.borrow().lost)
}

/// Releases in the background. A store that is down is asked again, but not after `valid_for`, when
/// the lease has ended by itself, and not for long, since a shutdown waits for it.
pub(crate) async fn release_within(
    valid_for: Duration,
    middleware: &'static str,
    release: impl Fn() -> StoreFuture<bool>,
) {
    let until = Instant::now() + valid_for.min(RELEASE_WITHIN);
    let mut pause = FIRST_PAUSE;
    while let Err(error) = release().await {
        telemetry::store_failed(middleware, &error);
        let transient = error.is_unavailable() || error.is_timeout();
        if !transient || Instant::now() + pause >= until {
            return;
        }
        time::sleep(pause).await;
        pause *= 2;
    }
}

/// How long of `length` the holder is certain of: less 1% for clocks that do not run equally fast,
/// and 2 ms for a store that counts in whole milliseconds and a timer that fires as coarsely.
pub(crate) fn certain(length: Duration) -> Duration {
    length.saturating_sub(length / 100 + Duration::from_millis(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    #[derive(Default)]
    struct Store {
        taken: AtomicBool,
        down: AtomicBool,
        renewals: AtomicUsize,
        releases: AtomicUsize,
    }

    impl LeaseOps for Store {
        fn renew(&self) -> StoreFuture<bool> {
            self.renewals.fetch_add(1, SeqCst);
            if self.down.load(SeqCst) {
                return StoreFuture::ready(Err(StoreError::unavailable("down")));
            }
            StoreFuture::ready(Ok(!self.taken.load(SeqCst)))
        }

        fn release(&self) -> StoreFuture<bool> {
            self.releases.fetch_add(1, SeqCst);
            if self.down.load(SeqCst) {
                return StoreFuture::ready(Err(StoreError::unavailable("down")));
            }
            StoreFuture::ready(Ok(!self.taken.load(SeqCst)))
        }
    }

    /// Grants a renewal when it is told to.
    #[derive(Default)]
    struct Slow {
        granted: Arc<tokio::sync::Notify>,
    }

    impl LeaseOps for Slow {
        fn renew(&self) -> StoreFuture<bool> {
            let granted = self.granted.clone();
            StoreFuture::boxed(async move {
                granted.notified().await;
                Ok(true)
            })
        }

        fn release(&self) -> StoreFuture<bool> {
            StoreFuture::ready(Ok(true))
        }
    }

    const LENGTH: Duration = Duration::from_millis(90);

    /// By the clock of the runtime, which moves only while every task waits.
    fn now() -> std::time::Instant {
        Instant::now().into_std()
    }

    fn lease(store: &Arc<Store>, tasks: &Tasks) -> Lease {
        Lease::new(store.clone(), "test", now(), LENGTH, tasks.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_lease_outlives_its_length() {
        let (store, tasks) = (Arc::new(Store::default()), Tasks::default());
        let mut lease = lease(&store, &tasks);
        lease.auto_renew();
        time::sleep(LENGTH * 3).await;
        assert!(!lease.is_lost());
        assert!(store.renewals.load(SeqCst) >= 3);
        assert!(lease.release().await.unwrap());
        assert_eq!(store.releases.load(SeqCst), 1);
        let renewals = store.renewals.load(SeqCst);
        time::sleep(LENGTH * 3).await;
        assert_eq!(store.renewals.load(SeqCst), renewals, "what was released is not renewed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_renewed_is_lost_at_its_deadline() {
        let (store, tasks) = (Arc::new(Store::default()), Tasks::default());
        let lease = lease(&store, &tasks);
        let mut watch = lease.watch();
        assert!(!watch.is_lost());
        watch.lost().await;
        assert!(lease.is_lost() && lease.valid_for().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_renewal_is_a_loss_at_once() {
        let (store, tasks) = (Arc::new(Store::default()), Tasks::default());
        let lease = Lease::new(store.clone(), "test", now(), Duration::from_secs(3600), tasks);
        store.taken.store(true, SeqCst);
        assert!(!lease.renew().await.unwrap());
        lease.watch().lost().await;
        assert!(lease.is_lost());
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_that_failed_is_tried_again_while_the_lease_lives() {
        let (store, tasks) = (Arc::new(Store::default()), Tasks::default());
        store.down.store(true, SeqCst);
        drop(Lease::new(store.clone(), "test", now(), Duration::from_secs(3600), tasks.clone()));
        let again = async {
            while store.releases.load(SeqCst) < 2 {
                time::sleep(Duration::from_millis(1)).await;
            }
        };
        time::timeout(RELEASE_WITHIN, again).await.expect("it is tried again");
        store.down.store(false, SeqCst);
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
        let releases = store.releases.load(SeqCst);

        store.down.store(true, SeqCst);
        let long_ago = now() - LENGTH;
        drop(Lease::new(store.clone(), "test", long_ago, LENGTH, tasks.clone()));
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
        assert_eq!(store.releases.load(SeqCst), releases + 1, "it has ended by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_comes_too_late_does_not_undo_the_loss() {
        let (store, tasks) = (Arc::new(Store::default()), Tasks::default());
        let lease = lease(&store, &tasks);
        lease.watch().lost().await;
        assert!(!lease.renew().await.unwrap());
        assert!(lease.is_lost());
        assert_eq!(store.renewals.load(SeqCst), 0, "a lost lease is not stretched");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_is_granted_after_the_deadline_is_a_loss() {
        let (store, tasks) = (Arc::new(Slow::default()), Tasks::default());
        let lease = Lease::new(store.clone(), "test", now(), LENGTH, tasks);
        let renewal = async {
            let granted = lease.renew().await.unwrap();
            assert!(!granted && lease.is_lost());
        };
        let grant = async {
            lease.watch().lost().await;
            store.granted.notify_one();
        };
        tokio::join!(renewal, grant);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_when_it_was_asked_for() {
        let (store, tasks) = (Arc::new(Slow::default()), Tasks::default());
        let lease = Lease::new(store.clone(), "test", now(), LENGTH, tasks);
        let took = LENGTH / 2;
        let grant = async {
            time::sleep(took).await;
            store.granted.notify_one();
        };
        let (ours, ()) = tokio::join!(lease.renew(), grant);
        assert!(ours.unwrap());
        assert_eq!(lease.valid_for(), certain(LENGTH) - took);
    }

    #[test]
    fn the_holder_is_certain_of_less_than_the_store_grants() {
        assert_eq!(certain(Duration::from_secs(10)), Duration::from_millis(9_898));
        assert_eq!(certain(Duration::from_millis(1)), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_down_for_a_while_loses_nothing() {
        let (store, tasks) = (Arc::new(Store::default()), Tasks::default());
        let mut lease = lease(&store, &tasks);
        store.down.store(true, SeqCst);
        lease.auto_renew();
        while store.renewals.load(SeqCst) < 2 {
            time::sleep(Duration::from_millis(1)).await;
        }
        store.down.store(false, SeqCst);
        time::sleep(LENGTH * 2).await;
        assert!(!lease.is_lost());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_lease_is_released_by_a_task_and_a_disarmed_one_is_not() {
        let (store, tasks) = (Arc::new(Store::default()), Tasks::default());
        drop(lease(&store, &tasks));
        tasks.drain(Duration::from_secs(5)).await;
        assert_eq!(store.releases.load(SeqCst), 1);
        let mut disarmed = lease(&store, &tasks);
        disarmed.disarm();
        drop(disarmed);
        tasks.drain(Duration::from_secs(5)).await;
        assert_eq!(store.releases.load(SeqCst), 1);
    }
}
