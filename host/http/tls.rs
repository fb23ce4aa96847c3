//! TLS for clients on the network.

mod validity;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use self::validity::{is_version_1, validity};
use crate::text::timestamp;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the certificates in `{}`, which `serve.tls_certificate` names: {cause}", path.display())]
    Certificate { path: PathBuf, cause: rustls::pki_types::pem::Error },
    #[error("there is no certificate in `{}`, which `serve.tls_certificate` names", path.display())]
    NoCertificate { path: PathBuf },
    #[error("cannot read the private key in `{}`, which `serve.tls_key` names: {cause}", path.display())]
    Key { path: PathBuf, cause: rustls::pki_types::pem::Error },
    #[error("others can read `{}`, which holds the private key of `serve.tls_key`: {cause}", path.display())]
    Shared { path: PathBuf, cause: io::Error },
    #[error(
        "the private key in `{}`, which `serve.tls_key` names, is encrypted; take its passphrase away with \
         `openssl pkey -in {} -out KEY.pem`",
        path.display(),
        path.display()
    )]
    Encrypted { path: PathBuf },
    #[error("there is no private key in `{}`, which `serve.tls_key` names", path.display())]
    NoKey { path: PathBuf },
    #[error(
        "the certificates in `{}` are in the wrong order: the private key is that of number {number}; put that first, and \
         behind it those that vouch for it",
        path.display()
    )]
    Order { path: PathBuf, number: usize },
    #[error(
        "the certificate in `{}` is of version 1 of X.509, which callers refuse; make it with extensions, such as \
         subjectAltName, which version 3 has",
        path.display()
    )]
    Version1 { path: PathBuf },
    #[error("the private key in `{}` is not that of the certificate in `{}`", key.display(), certificate.display())]
    OtherKey { certificate: PathBuf, key: PathBuf },
    #[error("the certificate and the private key of `serve.tls_certificate` and `serve.tls_key` cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// TLS with a certificate that can be replaced while connections use it.
#[derive(Clone)]
pub struct Tls {
    pub acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

/// A certificate chain and its key, read and checked.
#[derive(Debug)]
pub struct Certificate(RwLock<Arc<CertifiedKey>>);

impl Tls {
    pub fn new(certificate: Certificate) -> Result<Self, TlsError> {
        let certificate = Arc::new(certificate);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(TlsError::Unusable)?.with_no_client_auth();
        let mut config = config.with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }

    /// Replaces the certificate for new connections.
    pub fn replace(&self, certificate: Certificate) {
        let new = certificate.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.certificate.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Reads a certificate chain and its key, both in PEM.
pub fn certificate(certificate: &Path, key: &Path) -> Result<Certificate, TlsError> {
    let unreadable = |cause| TlsError::Certificate { path: certificate.to_owned(), cause };
    let chain = CertificateDer::pem_file_iter(certificate).map_err(unreadable)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: certificate.to_owned() });
    }
    let shared = |cause| TlsError::Shared { path: key.to_owned(), cause };
    crate::private_file::check(key).map_err(shared)?;
    let private = private_key(key)?;
    tell_of_validity(certificate, &chain[0]);
    let provider = rustls::crypto::ring::default_provider();
    // Searches the bytes of each certificate for the public key, which also works for a certificate
    // that the library cannot parse.
    let public = provider
        .key_provider
        .load_private_key(private.clone_key())
        .ok()
        .and_then(|key| Some(key.public_key()?.to_vec()));
    let is_its = |certificate: &CertificateDer<'_>| {
        public.as_ref().is_some_and(|public| certificate.windows(public.len()).any(|window| window == public))
    };
    let its_number = chain.iter().position(is_its).map(|index| index + 1);
    let is_old = is_version_1(&chain[0]);
    let certified = CertifiedKey::from_der(chain, private, &provider).map_err(|error| match error {
        _ if its_number.is_some_and(|number| number > 1) => {
            TlsError::Order { path: certificate.to_owned(), number: its_number.unwrap_or_default() }
        }
        rustls::Error::InconsistentKeys(_) => {
            TlsError::OtherKey { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        _ if is_old => TlsError::Version1 { path: certificate.to_owned() },
        error => TlsError::Unusable(error),
    });
    Ok(Certificate(RwLock::new(Arc::new(certified?))))
}

/// Markers of an encrypted key file: in PKCS #8, and in the older format.
const ENCRYPTED: [&str; 2] = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"];

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed = |cause| TlsError::Key { path: path.to_owned(), cause };
    let text = std::fs::read(path).map_err(|error| failed(pem::Error::Io(error)))?;
    let says = |mark: &str| text.windows(mark.len()).any(|window| window == mark.as_bytes());
    if ENCRYPTED.into_iter().any(says) {
        return Err(TlsError::Encrypted { path: path.to_owned() });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|cause| match cause {
        pem::Error::NoItemsFound => TlsError::NoKey { path: path.to_owned() },
        cause => failed(cause),
    })
}

/// Logs a warning if clients will refuse the certificate because of its dates. The node starts all
/// the same, because the clock of the machine may be wrong.
fn tell_of_validity(path: &Path, certificate: &CertificateDer<'_>) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let Some(validity) = validity(certificate) else { return };
    let at = |seconds: u64| timestamp(seconds.saturating_mul(1000));
    if now > *validity.end() {
        let (path, at) = (path.display(), at(*validity.end()));
        tracing::warn!("the certificate in `{path}` expired on {at}, and callers will refuse it; renew it");
    } else if now < *validity.start() {
        let (path, at) = (path.display(), at(*validity.start()));
        tracing::warn!(
            "the certificate in `{path}` is valid from {at} on, and by this machine's clock that is to come"
        );
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::TlsConnector;

    use super::*;

    const CERTIFICATE: &str = include_str!("../../tests/vectors/tls/certificate.pem");
    const EXPIRED: &str = include_str!("../../tests/vectors/tls/expired.pem");
    const OLD: &str = include_str!("../../tests/vectors/tls/version-1.pem");
    const OTHER: &str = include_str!("../../tests/vectors/tls/other.pem");
    const KEY: &str = include_str!("../../tests/vectors/tls/key.pem");
    const ENCRYPTED: &str = include_str!("../../tests/vectors/tls/encrypted.pem");
    const ENCRYPTED_OF_OLD: &str =
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";

    fn tried(certificate: &str, key: &str) -> Result<(), String> {
        let (certificate_file, key_file) =
            (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(&certificate_file, certificate).unwrap();
        std::fs::write(&key_file, key).unwrap();
        super::certificate(certificate_file.path(), key_file.path()).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn each_usual_mistake_with_certificates_is_named() {
        assert_eq!(tried(CERTIFICATE, KEY), Ok(()));
        assert_eq!(tried(&[CERTIFICATE, OTHER].concat(), KEY), Ok(()));
        assert_eq!(tried(EXPIRED, KEY), Ok(()), "the clock may be wrong");
        for (certificate, key, said) in [
            (&*[OTHER, CERTIFICATE].concat(), KEY, "in the wrong order: the private key is that of number 2"),
            (&*[OTHER, OTHER, CERTIFICATE].concat(), KEY, "in the wrong order: the private key is that of number 3"),
            (&*[OTHER, OLD].concat(), KEY, "in the wrong order: the private key is that of number 2"),
            (OLD, KEY, "is of version 1 of X.509"),
            (OTHER, KEY, "is not that of the certificate"),
            (CERTIFICATE, ENCRYPTED, "is encrypted; take its passphrase away"),
            (CERTIFICATE, ENCRYPTED_OF_OLD, "is encrypted; take its passphrase away"),
            (CERTIFICATE, CERTIFICATE, "there is no private key"),
            (KEY, KEY, "there is no certificate"),
            ("", KEY, "there is no certificate"),
        ] {
            let error = tried(certificate, key).unwrap_err();
            assert!(error.contains(said), "{said}: {error}");
        }
    }

    #[test]
    fn the_validity_of_a_certificate_is_found() {
        let validity = |pem: &str| validity(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
        assert_eq!(validity(EXPIRED), Some(1_577_836_800..=1_609_459_200));
        assert!(validity(CERTIFICATE).is_some_and(|validity| *validity.end() > 4_000_000_000));
    }

    fn vectors(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tls").join(name)
    }

    fn read(name: &str) -> Certificate {
        // A key that others may read is refused, and a git checkout does not preserve file modes.
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), std::fs::read(vectors(&name.replace("certificate", "key"))).unwrap()).unwrap();
        certificate(&vectors(name), key.path()).unwrap()
    }

    /// Returns true if a client that trusts only this certificate can connect.
    async fn is_shown(tls: &Tls, name: &str) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(vectors(name)).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = TlsConnector::from(Arc::new(client.unwrap().with_root_certificates(roots).with_no_client_auth()));
        let (near, far) = tokio::io::duplex(64 << 10);
        let (connected, _) =
            tokio::join!(client.connect("localhost".try_into().unwrap(), near), tls.acceptor.accept(far));
        connected.is_ok()
    }

    #[tokio::test]
    async fn a_certificate_is_replaced_for_the_connections_that_come() {
        const FORMER: &str = "certificate.pem";
        const RENEWED: &str = "renewed-certificate.pem";
        let tls = Tls::new(read(FORMER)).unwrap();
        assert!(is_shown(&tls, FORMER).await && !is_shown(&tls, RENEWED).await);
        tls.replace(read(RENEWED));
        assert!(is_shown(&tls, RENEWED).await && !is_shown(&tls, FORMER).await);
    }
}
