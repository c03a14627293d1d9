//! TLS against a real server, with a CA made on the spot.

use super::server::{Server, until};
use crate::{
    connection::{Config, Connection, State, Tls},
    pubsub::Hint,
    store::StoreError,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

const LONG: Duration = Duration::from_secs(20);

/// A certificate and its key, as PEM.
struct Identity {
    certificate: String,
    key: String,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, host: &str) -> Identity {
        self.issue_with(host, |_| {})
    }

    fn issue_expired(&self, host: &str) -> Identity {
        self.issue_with(host, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    fn issue_with(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

/// A server that speaks TLS, as `localhost` unless it shows another identity.
struct TlsServer {
    server: Server,
    port: u16,
    dir: PathBuf,
}

impl TlsServer {
    /// `clients` is `tls-auth-clients`: `no` or `yes`.
    async fn start(authority: &Authority, identity: &Identity, clients: &str) -> Self {
        Self::start_with(authority, identity, clients, &[]).await
    }

    async fn start_with(
        authority: &Authority,
        identity: &Identity,
        clients: &str,
        more: &[&str],
    ) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("towerkeep-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port_text, ca) = (port.to_string(), file("ca.pem", &authority.pem));
        let certificate = file("server.pem", &identity.certificate);
        let key = file("server.key", &identity.key);
        let nodes = dir.join("nodes.conf").to_str().unwrap().to_owned();
        let args = [
            ["--tls-port", &port_text],
            ["--tls-ca-cert-file", &ca],
            ["--tls-cert-file", &certificate],
            ["--tls-key-file", &key],
            ["--tls-auth-clients", clients],
            ["--cluster-config-file", &nodes],
        ];
        let args: Vec<_> = args.as_flattened().iter().chain(more).copied().collect();
        let server = Server::with(&args).await;
        Self { server, port, dir }
    }

    fn url(&self) -> String {
        format!("rediss://localhost:{}", self.port)
    }

    async fn connect(&self, tls: Tls) -> Result<Connection, StoreError> {
        let config = Config { tls: Some(tls), connect_timeout: LONG, ..Config::new(self.url()) };
        Connection::connect(config).await
    }

    /// Not to be connected to, for a reason that holds `pieces`.
    async fn refuses(&self, tls: Tls, pieces: &[&str]) {
        let error = self.connect(tls).await.unwrap_err();
        let text = error.to_string();
        assert!(pieces.iter().all(|piece| text.contains(piece)), "{pieces:?} in {text:?}");
        assert!(error.is_config() && text.contains("localhost"), "{error:?}");
        assert!(!format!("{error:?} {text}").contains("BEGIN"), "{error:?}");
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test]
async fn the_link_the_pools_and_the_hints_all_speak_tls_and_come_back_after_a_restart() {
    let ca = Authority::new("own");
    let mut server = TlsServer::start(&ca, &ca.issue("localhost"), "yes").await;
    let Identity { certificate, key } = ca.issue("client");
    let tls = Tls::new().ca(&*ca.pem).client_certificate(certificate, key);
    let connection = server.connect(tls).await.unwrap();

    connection.query::<()>(redis::cmd("SET").arg("k").arg("v")).await.unwrap();
    let mut own = connection.pool().unwrap().get().await.unwrap();
    let value: String = redis::cmd("GET").arg("k").query_async(&mut own).await.unwrap();
    assert_eq!(value, "v");
    let hints = connection.hints();
    let mut subscription = hints.subscribe("channel");
    assert!(subscription.ready(LONG).await);
    hints.publish("channel", "hello".into()).await.unwrap();
    assert_eq!(subscription.recv().await, Hint::Message("hello".into()));

    server.server.kill();
    until("the loss is noticed", || async { connection.health().state == State::Down }).await;
    server.server.restart().await;
    until("it works again", || async { connection.ping(LONG).await.is_ok() }).await;
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused() {
    let ca = Authority::new("own");
    let server = TlsServer::start(&ca, &ca.issue("localhost"), "no").await;
    server.connect(Tls::new().ca(&*ca.pem)).await.unwrap();
    server.refuses(Tls::new().ca(Authority::new("other").pem), &["not trusted", "Tls::ca"]).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let ca = Authority::new("own");
    let server = TlsServer::start(&ca, &ca.issue_expired("localhost"), "no").await;
    server.refuses(Tls::new().ca(&*ca.pem), &["has expired", "clock"]).await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_unless_that_name_is_asked_for() {
    let ca = Authority::new("own");
    let server = TlsServer::start(&ca, &ca.issue("db.example"), "no").await;
    server.refuses(Tls::new().ca(&*ca.pem), &["another name", "db.example"]).await;
    server.connect(Tls::new().ca(&*ca.pem).server_name("db.example")).await.unwrap();
}

#[tokio::test]
async fn a_missing_a_foreign_and_an_expired_client_certificate_are_each_refused() {
    let ca = Authority::new("own");
    let server = TlsServer::start(&ca, &ca.issue("localhost"), "yes").await;
    server.refuses(Tls::new().ca(&*ca.pem), &["asks for a client certificate"]).await;
    for Identity { certificate, key } in
        [Authority::new("other").issue("client"), ca.issue_expired("client")]
    {
        let tls = Tls::new().ca(&*ca.pem).client_certificate(certificate, key);
        server.refuses(tls, &["refused the client certificate"]).await;
    }
}

#[tokio::test]
async fn only_the_insecure_mode_takes_any_certificate() {
    let ca = Authority::new("own");
    let server = TlsServer::start(&ca, &ca.issue_expired("db.example"), "no").await;
    let connection = server.connect(Tls::new().insecure_accept_any_certificate()).await.unwrap();
    connection.ping(LONG).await.unwrap();
}

#[tokio::test]
async fn a_server_without_tls_is_named() {
    let server = Server::start().await;
    let ca = Authority::new("own");
    let url = format!("rediss://localhost:{}", server.port);
    let tls = Some(Tls::new().ca(&*ca.pem));
    let config = Config { tls, connect_timeout: Duration::from_secs(1), ..Config::new(url) };
    let error = Connection::connect(config).await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn a_url_without_tls_is_refused_where_tls_is_configured() {
    let config = Config { tls: Some(Tls::new()), ..Config::new("redis://localhost") };
    let error = Connection::connect(config).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("rediss://"), "{error}");
}

/// The servers of a cluster name other ports to those who speak TLS.
#[tokio::test]
async fn a_cluster_speaks_tls_on_every_link_pool_and_feed() {
    let ca = Authority::new("own");
    let identity = ca.issue("localhost");
    let cluster = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let server = TlsServer::start_with(&ca, &identity, "no", &cluster).await;
    let plain = server.server.connect().await;
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("ADDSLOTS").arg((0..16_384).collect::<Vec<_>>());
    plain.query::<()>(&slots).await.unwrap();
    until("the cluster is ready", || async {
        let info: String = plain.query(redis::cmd("CLUSTER").arg("INFO")).await.unwrap();
        info.contains("cluster_state:ok")
    })
    .await;

    let url = format!("rediss+cluster://localhost:{}", server.port);
    let connect = async |tls: Tls| {
        let mut config = Config { tls: Some(tls), connect_timeout: LONG, ..Config::new(&url) };
        config.deadline = LONG;
        Connection::connect(config).await
    };
    let connection = connect(Tls::new().ca(&*ca.pem)).await.unwrap();
    connection.query::<()>(redis::cmd("SET").arg("k").arg("v")).await.unwrap();
    assert_eq!(connection.health().nodes[0].address.as_ref(), format!("localhost:{}", server.port));
    let pool = connection.server_of("k").unwrap().pool().unwrap();
    let value: String =
        redis::cmd("GET").arg("k").query_async(&mut pool.get().await.unwrap()).await.unwrap();
    assert_eq!(value, "v");
    let mut hints = connection.hints().subscribe("channel");
    assert!(hints.ready(LONG).await);

    let error = connect(Tls::new().ca(&*Authority::new("other").pem)).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("localhost"), "{error}");
}

/// Killed when dropped.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn sentinels_are_asked_over_tls_too() {
    let ca = Authority::new("own");
    let server = TlsServer::start(&ca, &ca.issue("127.0.0.1"), "no").await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = |name: &str| server.dir.join(name).to_str().unwrap().to_owned();
    let settings = format!(
        "port 0\ntls-port {port}\ntls-ca-cert-file {}\ntls-cert-file {}\ntls-key-file {}\n\
         tls-auth-clients no\nsentinel monitor name 127.0.0.1 {} 1\n",
        file("ca.pem"),
        file("server.pem"),
        file("server.key"),
        server.port
    );
    fs::write(file("sentinel.conf"), settings).unwrap();
    let binary = std::env::var_os("TOWERKEEP_REDIS_SERVER").unwrap_or("redis-server".into());
    let sentinel = std::process::Command::new(binary)
        .args([&file("sentinel.conf"), "--sentinel"])
        .stdout(std::process::Stdio::null())
        .spawn();
    let _sentinel = Process(sentinel.unwrap());
    until("the sentinel listens", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;

    let url = format!("rediss+sentinel://127.0.0.1:{port}/name");
    let tls = Tls::new().ca(&*ca.pem);
    let config = Config { tls: Some(tls), connect_timeout: LONG, ..Config::new(&url) };
    let connection = Connection::connect(config).await.unwrap();
    connection.query::<()>(redis::cmd("SET").arg("k").arg("v")).await.unwrap();
    assert_eq!(connection.health().address.as_ref(), format!("127.0.0.1:{}", server.port));
}
