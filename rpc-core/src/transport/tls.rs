//! TLS by rustls, with ALPN `h2`, on both sides.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::connector::Io;
use super::sniff::{self, Begins};

const ALPN: &[u8] = b"h2";

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A PEM text without the byte-order marks that some editors put before it, and that are in the middle
/// of files put together.
fn without_marks(pem: &[u8]) -> Cow<'_, [u8]> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if !pem.windows(MARK.len()).any(|octets| octets == MARK) {
        return pem.into();
    }
    let mut rest = pem;
    let mut text = Vec::with_capacity(pem.len());
    while let Some((first, others)) = rest.split_first() {
        rest = match rest.strip_prefix(MARK) {
            Some(behind) => behind,
            None => {
                text.push(*first);
                others
            }
        };
    }
    text.into()
}

/// Collects roots. One that cannot be used trusts nobody, and is no reason to trust none of the others:
/// it is logged and left out, as OpenSSL and Go do.
fn roots<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    certificates: impl IntoIterator<Item = Result<CertificateDer<'static>, E>>,
) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let mut failure = None;
    for (place, certificate) in (1..).zip(certificates) {
        let added = certificate
            .map_err(invalid)
            .and_then(|certificate| roots.add(certificate).map_err(invalid));
        if let Err(error) = added {
            tracing::warn!(place, %error, "a root certificate cannot be used and is left out");
            failure.get_or_insert_with(|| invalid(format!("root certificate {place}: {error}")));
        }
    }
    match failure {
        Some(failure) if roots.is_empty() => Err(failure),
        _ => Ok(roots),
    }
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&without_marks(pem))
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
        let loaded = rustls_native_certs::load_native_certs();
        let certificates = loaded.certs.into_iter().map(Ok::<_, io::Error>);
        let roots = roots(certificates)?;
        if roots.is_empty() {
            return Err(loaded
                .errors
                .into_iter()
                .next()
                .map_or_else(|| invalid("the system has no root certificates"), invalid));
        }
        Self::from_roots(roots)
    }

    /// Trusts the certificates of a PEM text only. One that cannot be used is logged and left out.
    ///
    /// # Errors
    /// When the text holds no certificate that can be used.
    pub fn from_root_pem(pem: impl AsRef<[u8]>) -> io::Result<Self> {
        let pem = without_marks(pem.as_ref());
        let roots = roots(CertificateDer::pem_slice_iter(&pem))?;
        if roots.is_empty() {
            return Err(invalid("there is no certificate in the PEM text"));
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
        let connecting =
            TlsConnector::from(Arc::clone(&self.config)).connect(name, Begins::new(io));
        let mut stream = match connecting.into_fallible().await {
            Ok(stream) => stream,
            Err((error, io)) => return Err(explained(error, sniff::not_tls(io.first()))),
        };
        stream.get_mut().0.forget();
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(invalid("the server did not agree on HTTP/2 by ALPN"));
        }
        Ok(Box::new(stream))
    }
}

/// Why a handshake failed, and what the peer spoke instead.
fn explained(error: io::Error, spoken: Option<String>) -> io::Error {
    match spoken {
        Some(spoken) => io::Error::new(error.kind(), format!("{spoken} ({error})")),
        None => error,
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
        let key = without_marks(key.as_ref());
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(invalid)?;
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
        match self.0.accept(Begins::new(io)).into_fallible().await {
            Ok(mut stream) => {
                stream.get_mut().0.forget();
                Ok(Box::new(stream))
            }
            Err((error, io)) => {
                let spoken = sniff::client_without_tls(io.first());
                Err((explained(error, spoken), io.io))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem() -> String {
        let names = ["localhost".to_owned()];
        rcgen::generate_simple_self_signed(names)
            .unwrap()
            .cert
            .pem()
    }

    #[test]
    fn byte_order_marks_are_no_part_of_a_pem_text() {
        let mark = "\u{feff}";
        let text = format!("{mark}{}{mark}{}", pem(), pem());
        assert_eq!(certificates(text.as_bytes()).unwrap().len(), 2);
        assert_eq!(
            &*without_marks(text.as_bytes()),
            text.replace(mark, "").as_bytes()
        );
        assert!(ClientTls::from_root_pem(&text).is_ok());
        let names = ["localhost".to_owned()];
        let key = rcgen::generate_simple_self_signed(names).unwrap();
        let chain = format!("{mark}{}", key.cert.pem());
        let secret = format!("{mark}{}", key.signing_key.serialize_pem());
        assert!(ServerTls::from_pem(chain, secret).is_ok());
    }

    #[tokio::test]
    async fn a_client_without_tls_is_told_to_the_operator_and_heard_no_more() {
        use tokio::io::AsyncWriteExt as _;

        let names = ["localhost".to_owned()];
        let key = rcgen::generate_simple_self_signed(names).unwrap();
        let tls = ServerTls::from_pem(key.cert.pem(), key.signing_key.serialize_pem()).unwrap();
        for (said, parts) in [
            (&rpc_http2::frame::PREFACE[..], ["in HTTP/2", "https://"]),
            (b"GET / HTTP/1.1\r\n\r\n", ["GET / HTTP/1.1", "https://"]),
            (b"SSH-2.0-x\r\n", ["SSH-2.0-x", "another service"]),
            (b"\x16\x03\x01\0\x04\x63\0\0\0", ["", ""]),
        ] {
            let (mut client, server) = tokio::io::duplex(4096);
            client.write_all(said).await.unwrap();
            let Err((error, _)) = tls.accept(Box::new(server)).await else {
                panic!("{said:?} is no handshake");
            };
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            assert_eq!(text.contains("TLS:"), !parts[0].is_empty(), "{text}");
        }
    }

    #[test]
    fn one_bad_root_leaves_the_others() {
        const NO_CERTIFICATE: &str =
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        const NO_BASE64: &str = "-----BEGIN CERTIFICATE-----\n****\n-----END CERTIFICATE-----\n";
        const CUT: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        let trusted = |pem: &str| {
            let pem = without_marks(pem.as_bytes());
            roots(CertificateDer::pem_slice_iter(&pem)).map(|roots| roots.len())
        };
        for bad in [NO_CERTIFICATE, NO_BASE64] {
            assert_eq!(trusted(&[&pem(), bad, &pem()].concat()).unwrap(), 2);
            let error = ClientTls::from_root_pem(bad).unwrap_err();
            assert!(error.to_string().contains("root certificate 1"), "{error}");
        }
        assert_eq!(trusted(&[&pem(), CUT].concat()).unwrap(), 1);
        assert!(ClientTls::from_root_pem("").is_err());
        // A server's own chain has to be right.
        assert!(certificates([&pem(), NO_BASE64].concat().as_bytes()).is_err());
    }
}
