//! TLS for whoever reaches the node from elsewhere.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

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
    #[error("the certificate and the private key of `serve.tls_certificate` and `serve.tls_key` cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// Reads a chain of certificates and its key, both as PEM.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let unreadable = |cause| TlsError::Certificate { path: certificate.to_owned(), cause };
    let chain = CertificateDer::pem_file_iter(certificate).map_err(unreadable)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: certificate.to_owned() });
    }
    let shared = |cause| TlsError::Shared { path: key.to_owned(), cause };
    crate::private_file::check(key).map_err(shared)?;
    let unreadable = |cause| TlsError::Key { path: key.to_owned(), cause };
    let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
