//! A browser whose requests are closures: what each does with its session.

// Every test binary compiles this module anew and uses its own part of it.
#![allow(dead_code)]

use http::{HeaderMap, Request, Response, StatusCode, header};
use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};
use tower::{Layer, ServiceExt, service_fn};
use towerkeep::{
    Backend,
    marks::SessionTouched,
    session::{LazySession, Session, SessionLayer, Token},
};

const COOKIE: &str = "__Host-sid";

/// One browser: what it is to do with its session is a closure for each request.
pub(crate) struct Browser {
    pub(crate) layer: SessionLayer,
    cookie: Mutex<Option<String>>,
}

pub(crate) struct Answer<T> {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) touched: bool,
    pub(crate) value: Option<T>,
}

impl<T> Answer<T> {
    pub(crate) fn set_cookie(&self) -> Option<&str> {
        self.headers.get(header::SET_COOKIE).map(|value| value.to_str().unwrap())
    }
}

impl Browser {
    pub(crate) fn new(layer: &SessionLayer) -> Self {
        Self { layer: layer.clone(), cookie: Mutex::default() }
    }

    /// Somebody else with the same cookie.
    pub(crate) fn copy(&self) -> Self {
        Self { layer: self.layer.clone(), cookie: Mutex::new(self.cookie()) }
    }

    pub(crate) fn cookie(&self) -> Option<String> {
        self.cookie.lock().unwrap().clone()
    }

    /// The same cookie, through another layer.
    pub(crate) fn through(&self, layer: &SessionLayer) -> Self {
        Self { layer: layer.clone(), cookie: Mutex::new(self.cookie()) }
    }

    pub(crate) async fn request<T: Send + 'static, F: Future<Output = T> + Send>(
        &self,
        handler: impl FnOnce(Session) -> F + Send + 'static,
    ) -> Answer<T> {
        self.lazy(async move |lazy: LazySession| handler(lazy.load().await.unwrap()).await).await
    }

    /// A request that does not load its session by itself.
    pub(crate) async fn lazy<T: Send + 'static, F: Future<Output = T>>(
        &self,
        handler: impl FnOnce(LazySession) -> F + 'static,
    ) -> Answer<T> {
        self.answer(async move |lazy| (StatusCode::OK, handler(lazy).await)).await
    }

    /// A request whose handler chooses the status, too.
    pub(crate) async fn answer<T: 'static, F: Future<Output = (StatusCode, T)>>(
        &self,
        handler: impl FnOnce(LazySession) -> F + 'static,
    ) -> Answer<T> {
        let mut request = Request::new(String::new());
        if let Some(cookie) = self.cookie() {
            let line = format!("{COOKIE}={cookie}");
            request.headers_mut().insert(header::COOKIE, line.parse().unwrap());
        }
        let value = Arc::new(Mutex::new(None));
        let handler = Mutex::new(Some(handler));
        let service = {
            let value = value.clone();
            service_fn(move |request: Request<String>| {
                let handler = handler.lock().unwrap().take().unwrap();
                let lazy: LazySession = request.extensions().get().cloned().unwrap();
                let value = value.clone();
                async move {
                    let (status, done) = handler(lazy).await;
                    *value.lock().unwrap() = Some(done);
                    let mut response = Response::new(String::new());
                    *response.status_mut() = status;
                    Ok::<_, Infallible>(response)
                }
            })
        };
        let response = self.layer.layer(service).oneshot(request).await.unwrap();
        let headers = response.headers().clone();
        for line in headers.get_all(header::SET_COOKIE) {
            let line = line.to_str().unwrap();
            let value = line.strip_prefix(COOKIE).unwrap().strip_prefix('=').unwrap();
            let value = value.split(';').next().unwrap();
            let kept = !value.is_empty();
            *self.cookie.lock().unwrap() = kept.then(|| value.to_owned());
        }
        let touched = SessionTouched::in_extensions(response.extensions());
        let value = value.lock().unwrap().take();
        Answer { status: response.status(), headers, touched, value }
    }

    pub(crate) async fn login(&self, user: &'static str) -> Answer<()> {
        self.request(move |session| async move { session.login(user).unwrap() }).await
    }

    pub(crate) async fn set(&self, field: &'static str) -> Answer<()> {
        self.request(move |session| async move { session.set(field, &1).unwrap() }).await
    }

    pub(crate) async fn logout(&self) {
        self.request(async |session| session.destroy()).await;
    }

    pub(crate) async fn user(&self) -> Option<String> {
        let user = self.request(async |session| session.user().map(|user| user.to_string()));
        user.await.value.unwrap()
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        self.request(async |session| session.names()).await.value.unwrap()
    }

    pub(crate) fn plant(&self, value: &str) {
        *self.cookie.lock().unwrap() = Some(value.to_owned());
    }

    pub(crate) fn token(&self) -> Token {
        Token::parse(self.cookie().unwrap().as_bytes()).unwrap()
    }
}

/// What is done after the response is done when this returns.
pub(crate) async fn settled(backend: &Backend) {
    assert_eq!(backend.shutdown(Duration::from_secs(10)).await, 0);
}
