//! Whose session it is: login, logout, and what is known of the user.

use crate::{
    marks::UserId,
    session::{
        activity::{self, Activity},
        error::Error,
        handle::Session,
        sessions::Sessions,
        token::Selector,
    },
};
use serde::Serialize;
use std::{sync::Arc, time::Duration};

impl Session {
    /// The user it is bound to by a [`login`](Session::login).
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        self.state().user().cloned()
    }

    /// Whether there is a session, in the store or after this request: `false` for a visitor who has
    /// none and for whom nothing was set.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.state().exists()
    }

    /// What the session is listed and [revoked](Sessions::revoke) by; `None` as long as the store has
    /// none. It stays when the cookie changes, except with the user.
    #[must_use]
    pub fn handle(&self) -> Option<Selector> {
        self.state().token().map(|token| token.selector())
    }

    /// Binds the session to a user, gives it a new cookie and restarts its lifetime. The old cookie
    /// fails from then on, so one that was planted before the login is worth nothing.
    ///
    /// The data stays; call [`clear`](Session::clear) first, or set
    /// [`clear_on_login`](super::SessionLayer::clear_on_login), if what was stored before the login is
    /// not to be trusted. A session of **another** user is destroyed, and a new one made. If the
    /// session ends while the request is handled (a login clicked twice), a new one is made too.
    ///
    /// If the layer [limits](super::SessionLayer::max_sessions) how many sessions a user may have,
    /// that is seen to when the session is saved.
    ///
    /// # Errors
    ///
    /// If the user is not 1 to 255 bytes, and [`Error::is_unavailable`] if the request goes on
    /// without the store.
    pub fn login(&self, user: impl Into<Arc<str>>) -> Result<(), Error> {
        self.state().login(UserId::new(user))
    }

    /// Lets the session live this long from now, whether there are requests or not, with a cookie that
    /// outlives the browser: "remember me". Both timeouts of the layer give way, until the next
    /// [`login`](Session::login); it does not matter which of the two is called first. It is at least
    /// a second.
    ///
    /// ```
    /// use std::time::Duration;
    /// use towerkeep::session::{Error, Session};
    ///
    /// async fn login(session: Session, remember_me: bool) -> Result<(), Error> {
    ///     session.login("ann")?;
    ///     if remember_me {
    ///         session.remember(Duration::from_secs(30 * 24 * 60 * 60))?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] if the request goes on without the store.
    pub fn remember(&self, length: Duration) -> Result<(), Error> {
        // A `Max-Age` of 0 would take the cookie back.
        self.state().remember(length.max(Duration::from_secs(1)))
    }

    /// Gives the session a new cookie; the old one fails from then on. For any change of privilege
    /// other than a login, which does it by itself.
    pub fn rotate(&self) {
        self.state().rotate();
    }

    /// Ends the session and takes the cookie back: a logout. It holds whatever the status of the
    /// response is. What is set afterwards begins another session.
    pub fn destroy(&self) {
        self.state().destroy();
    }

    /// Says what is to be shown of the session among the user's [devices](Sessions::list): a label, a
    /// user agent, a place. At most 1,024 bytes of JSON, which count for nothing else. It is saved with
    /// the session, and makes none for a visitor who has none.
    ///
    /// # Errors
    ///
    /// [`Error::is_too_large`], [`Error::is_unavailable`] if the request goes on without the store,
    /// and if the value cannot be written as JSON.
    pub fn set_device<T: Serialize + ?Sized>(&self, device: &T) -> Result<(), Error> {
        let json =
            serde_json::to_vec(device).map_err(|source| Error::encode("the device", source))?;
        self.state().set_device(json.into())
    }

    /// The sessions of users: this one's others, and anyone's.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        Sessions::over(self.config().store.clone())
    }

    /// Notes something that the user did, with the time: what a page of recent activity shows. It is
    /// saved with the session, in the same round trip; a response of status 5xx saves nothing. Of each
    /// user, as many are kept as the layer's [`trail`](super::SessionLayer::trail) says.
    ///
    /// It is no audit log: if the store fails in the middle, an event may be lost, and one may be kept
    /// whose request failed after all.
    ///
    /// # Errors
    ///
    /// If nobody is logged in, [`Error::is_too_large`] for more than 4 KiB or for more events than a
    /// trail has, [`Error::is_unavailable`] if the request goes on without the store, and if the event
    /// cannot be written as JSON.
    pub fn record<T: Serialize + ?Sized>(&self, event: &T) -> Result<(), Error> {
        let now = self.config().store.clock().now();
        self.state().record(activity::encode(event, now)?)
    }

    /// What the user did lately, the latest first, at most `count`; nothing if nobody is logged in. What
    /// this request has recorded is not among it yet. One round trip.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] if the store fails.
    pub async fn recent(&self, count: usize) -> Result<Vec<Activity>, Error> {
        match self.user() {
            Some(user) => self.sessions().recent(&user, count).await,
            None => Ok(Vec::new()),
        }
    }
}
