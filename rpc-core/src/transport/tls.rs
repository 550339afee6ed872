//! TLS by rustls, with ALPN `h2`, on both sides.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::connector::Io;

const ALPN: &[u8] = b"h2";

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(invalid)?;
    if certificates.is_empty() {
        return Err(invalid("there is no certificate in the PEM text"));
    }
    Ok(certificates)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        io::Error::new(error.kind(), format!("reading {}: {error}", path.display()))
    })
}

/// How a channel proves who the server is.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
}

impl ClientTls {
    /// Trusts the roots that the system trusts.
    ///
    /// # Errors
    /// When the system has none that can be read.
    pub fn system_roots() -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        let loaded = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(loaded.certs);
        if roots.is_empty() {
            return Err(loaded
                .errors
                .into_iter()
                .next()
                .map_or_else(|| invalid("the system has no root certificates"), invalid));
        }
        Self::from_roots(roots)
    }

    /// Trusts the certificates of a PEM text only.
    ///
    /// # Errors
    /// When the text holds no certificate.
    pub fn from_root_pem(pem: impl AsRef<[u8]>) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem.as_ref())? {
            roots.add(certificate).map_err(invalid)?;
        }
        Self::from_roots(roots)
    }

    /// Trusts the certificates of a PEM file only.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn from_root_file(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_root_pem(read(path.as_ref())?)
    }

    /// Expects this name in the server's certificate instead of the target's host.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    fn from_roots(roots: RootCertStore) -> io::Result<Self> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            server_name: None,
        })
    }

    pub(crate) async fn connect(&self, host: &str, io: Box<dyn Io>) -> io::Result<Box<dyn Io>> {
        let host = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;
        let stream = TlsConnector::from(Arc::clone(&self.config))
            .connect(name, io)
            .await?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(invalid("the server did not agree on HTTP/2 by ALPN"));
        }
        Ok(Box::new(stream))
    }
}

/// How a server proves who it is.
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// A certificate chain and its key, in PEM.
    ///
    /// # Errors
    /// When one of them is missing or they do not fit together.
    pub fn from_pem(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> io::Result<Self> {
        let chain = certificates(chain.as_ref())?;
        let key = PrivateKeyDer::from_pem_slice(key.as_ref()).map_err(invalid)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(invalid)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// A certificate chain and its key, in PEM files.
    ///
    /// # Errors
    /// When a file cannot be read, or as [`from_pem`](Self::from_pem).
    pub fn from_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_pem(read(chain.as_ref())?, read(key.as_ref())?)
    }

    /// Shakes hands; a stream on which that failed has been told why, and comes back.
    pub(crate) async fn accept(
        &self,
        io: Box<dyn Io>,
    ) -> Result<Box<dyn Io>, (io::Error, Box<dyn Io>)> {
        Ok(Box::new(self.0.accept(io).into_fallible().await?))
    }
}
