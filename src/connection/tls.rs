//! TLS to the server, with rustls.
//!
//! The cryptography is ring's, given by name: rustls would else look for a provider of the whole
//! process, and panic where there is none or more than one.

use crate::store::StoreError;
use std::{fmt, io, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct,
        RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
};

/// How a server with a `rediss://` URL proves who it is, and how this client does.
///
/// The server's certificate must come from a trusted CA and bear the host name of the URL, which is
/// also sent as SNI. TLS 1.2 and 1.3 are spoken.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use towerkeep::{Backend, connection::Tls};
///
/// let tls = Tls::new()
///     .ca(std::fs::read("ca.pem")?)
///     .client_certificate(std::fs::read("client.pem")?, std::fs::read("client.key")?);
/// let backend = Backend::builder().tls(tls).redis("rediss://db.example:6380").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Tls {
    authorities: Vec<Vec<u8>>,
    client: Option<Client>,
    server_name: Option<String>,
    insecure: bool,
}

#[derive(Clone)]
struct Client {
    certificates: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// The system's roots, and no client certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates in this PEM, and no longer those of the system; may be called more
    /// than once. Default: the roots of the operating system.
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(pem.into());
        self
    }

    /// The certificate chain, own certificate first, and its private key (PKCS #8, PKCS #1 or SEC1),
    /// both as PEM. Servers with `tls-auth-clients yes` ask for it. Default: none.
    pub fn client_certificate(
        mut self,
        certificates: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.client = Some(Client { certificates: certificates.into(), key: key.into() });
        self
    }

    /// The name that the server's certificate must bear, for a server that is reached by another,
    /// such as through a tunnel. The [pools](super::Connection::pool) do not know it: theirs must
    /// bear the host of the URL. Default: the host of the URL.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    pub(super) fn accepts_any_certificate(&self) -> bool {
        self.insecure
    }

    /// The same settings for a connection of a pool, where the client crate does the handshake.
    pub(super) fn certify(
        &self,
        info: redis::ConnectionInfo,
    ) -> Result<redis::ConnectionInfo, StoreError> {
        let authorities = self.authorities.concat();
        let certificates = redis::TlsCertificates {
            client_tls: self.client.as_ref().map(|client| redis::ClientTlsConfig {
                client_cert: client.certificates.clone(),
                client_key: client.key.clone(),
            }),
            root_cert: (!authorities.is_empty()).then_some(authorities),
        };
        // What the parser says is left out: it may quote the key.
        let client = redis::Client::build_with_tls(info, certificates).map_err(|_| {
            StoreError::config("the TLS settings do not work for the connections of the pools")
        })?;
        Ok(client.get_connection_info().clone())
    }

    /// Accepts any certificate of anybody. **Whoever sits between here and the server can read the
    /// password and every session.** For a development server; give a private CA with
    /// [`ca`](Tls::ca) instead. Default: off.
    pub fn insecure_accept_any_certificate(mut self) -> Self {
        self.insecure = true;
        self
    }
}

impl fmt::Debug for Tls {
    /// Shows no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("own_ca", &!self.authorities.is_empty())
            .field("client_certificate", &self.client.is_some())
            .field("server_name", &self.server_name)
            .field("insecure_accept_any_certificate", &self.insecure)
            .finish()
    }
}

/// Makes ring the provider of the process if nobody has chosen one. The client crate's handshake, which
/// is that of the pools, would panic without.
pub(super) fn choose_provider() {
    if CryptoProvider::get_default().is_none() {
        // Somebody may be faster, and then theirs is as good.
        let _ = ring::default_provider().install_default();
    }
}

/// Does the handshake with the servers that share these settings.
pub(super) struct Connector {
    config: TlsConnector,
    server_name: Option<String>,
}

impl Connector {
    pub(super) fn new(tls: &Tls) -> Result<Self, StoreError> {
        let config = Arc::new(client_config(tls)?).into();
        Ok(Self { config, server_name: tls.server_name.clone() })
    }

    /// The name that the certificate of the server at `host` must bear.
    pub(super) fn name(&self, host: &str) -> Result<ServerName<'static>, StoreError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|_| {
            StoreError::config(format!("{name:?} is not a host name that a certificate can bear"))
        })
    }

    /// The handshake, and one answer: in TLS 1.3 a server looks at the client's certificate only
    /// after the client's side of the handshake is complete, and its refusal comes as an alert in
    /// place of the first answer.
    pub(super) async fn connect(
        &self,
        name: ServerName<'static>,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut stream = self.config.connect(name, stream).await?;
        // If the server has hung up already, what it said can still be read.
        let _ = stream.write_all(b"PING\r\n").await;
        let _ = stream.flush().await;
        // Any answer will do: whether the login is right is the login's question.
        while stream.read_u8().await.map_err(hung_up)? != b'\n' {}
        Ok(stream)
    }
}

/// Without an alert, only the time at which the server hung up tells why.
fn hung_up(error: io::Error) -> io::Error {
    if refusal(&error).is_some() {
        return error;
    }
    io::Error::new(
        error.kind(),
        format!(
            "the server hung up after the TLS handshake ({error}); check whether it takes clients \
             without a certificate (tls-auth-clients), its maxclients and its protected mode"
        ),
    )
}

fn client_config(tls: &Tls) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(ring::default_provider());
    let broken =
        |error: rustls::Error| StoreError::config(format!("the TLS settings do not work: {error}"));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(broken)?;
    let builder = if tls.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(roots(tls)?)
    };
    let Some(client) = &tls.client else { return Ok(builder.with_no_client_auth()) };
    // What the parser says is left out: it may quote the key.
    let key = PrivateKeyDer::from_pem_slice(&client.key).map_err(|_| {
        StoreError::config("the key of the client certificate holds no PEM private key")
    })?;
    let chain = certificates(&client.certificates, "the client certificate")?;
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        StoreError::config(format!("the client certificate and its key do not work: {error}"))
    })
}

fn roots(tls: &Tls) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    if tls.authorities.is_empty() {
        let system = rustls_native_certs::load_native_certs();
        // A system's store may hold certificates that nobody can use.
        if roots.add_parsable_certificates(system.certs).0 == 0 {
            return Err(StoreError::config(
                "this system has no root certificates; install them (often the package \
                 ca-certificates), or give the server's CA with Tls::ca",
            ));
        }
    }
    for pem in &tls.authorities {
        for certificate in certificates(pem, "the CA")? {
            roots.add(certificate).map_err(|error| {
                StoreError::config(format!("the CA holds a certificate of no use: {error}"))
            })?;
        }
    }
    Ok(roots)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(StoreError::config(format!(
            "{what} holds no PEM certificate (-----BEGIN CERTIFICATE-----)"
        ))),
    }
}

/// What went wrong between the two sides, and what to do about it, if `error` was a TLS one.
pub(super) fn refusal(error: &io::Error) -> Option<String> {
    error.get_ref().and_then(|inner| inner.downcast_ref()).map(explain)
}

fn explain(error: &rustls::Error) -> String {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    let fix = match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => {
                "the server's certificate is from a CA that is not trusted here: give that CA with \
                 Tls::ca"
            }
            Bad::Expired | Bad::ExpiredContext { .. } => {
                "the server's certificate has expired: renew it, or set this machine's clock"
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet: set this machine's clock"
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "the server's certificate bears another name: write that host into the URL, or set \
                 Tls::server_name"
            }
            _ => "the server's certificate is not valid",
        },
        rustls::Error::AlertReceived(alert) => match alert {
            // TLS 1.2 has no alert of its own for it.
            Alert::CertificateRequired | Alert::HandshakeFailure => {
                "the server asks for a client certificate: give one with Tls::client_certificate"
            }
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError => {
                "the server refused the client certificate: check that it is from the CA that the \
                 server trusts (tls-ca-cert-file) and has not expired"
            }
            _ => "the server ended the TLS handshake",
        },
        rustls::Error::InvalidMessage(_) => {
            "the server does not speak TLS there: use its TLS port, or redis://"
        }
        _ => "the TLS handshake failed",
    };
    format!("{fix} ({error})")
}

/// Accepts every certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(tls: &Tls, host: &str) -> String {
        let name = Connector::new(tls).and_then(|connector| connector.name(host));
        let Err(error) = name else { panic!("{tls:?} was taken") };
        assert!(error.is_config());
        error.to_string()
    }

    #[test]
    fn what_is_no_certificate_and_no_key_is_refused_before_anything_is_dialled() {
        let ca = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        let (pem, key) = (ca.cert.pem(), ca.signing_key.serialize_pem());
        assert!(refused(&Tls::new().ca("hunter2"), "localhost").contains("CA"));
        let swapped = Tls::new().ca(&*pem).client_certificate(&*key, &*pem);
        assert!(refused(&swapped, "localhost").contains("key"));
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let foreign = Tls::new().ca(&*pem).client_certificate(&*pem, &*other);
        assert!(refused(&foreign, "localhost").contains("client certificate"));
        assert!(refused(&Tls::new().ca(&*pem), "no host").contains("no host"));
        assert!(Connector::new(&Tls::new().ca(&*pem).client_certificate(pem, key)).is_ok());
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", Tls::new().client_certificate("hunter1", "hunter2"));
        assert!(!shown.contains("hunter") && shown.contains("client_certificate: true"), "{shown}");
        assert!(!shown.contains(&format!("{:?}", b"hunter2")), "{shown}");
    }
}
