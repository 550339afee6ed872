//! Sockets with TLS and without.

use std::net::SocketAddr;

use bench_driver::{Error, Settings};
use connectrpc::client::Http2Connection;
use connectrpc::server::BoundServer;

#[cfg(not(feature = "tls"))]
pub fn secure(server: BoundServer, _: &Settings) -> Result<BoundServer, Error> {
    Ok(server)
}

#[cfg(feature = "tls")]
pub fn secure(server: BoundServer, settings: &Settings) -> Result<BoundServer, Error> {
    Ok(match &settings.tls {
        None => server,
        Some(tls) => server.with_tls(tls::server(tls)?),
    })
}

pub async fn connect(
    address: SocketAddr,
    settings: &Settings,
) -> Result<(http::Uri, Http2Connection), Error> {
    #[cfg(feature = "tls")]
    if let Some(tls) = &settings.tls {
        let uri: http::Uri = format!("https://{address}").parse()?;
        let config = tls::client(tls)?;
        let connection = Http2Connection::connect_tls(uri.clone(), config).await?;
        return Ok((uri, connection));
    }
    #[cfg(not(feature = "tls"))]
    let _ = settings;
    let uri: http::Uri = format!("http://{address}").parse()?;
    let connection = Http2Connection::connect_plaintext(uri.clone()).await?;
    Ok((uri, connection))
}

#[cfg(feature = "tls")]
mod tls {
    use std::sync::Arc;

    use bench_driver::{Error, Tls};
    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};

    fn certificate(tls: &Tls) -> Result<CertificateDer<'static>, Error> {
        Ok(CertificateDer::from_pem_slice(tls.certificate.as_bytes())?)
    }

    pub(super) fn server(tls: &Tls) -> Result<Arc<ServerConfig>, Error> {
        let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes())?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate(tls)?], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    pub(super) fn client(tls: &Tls) -> Result<Arc<ClientConfig>, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(tls)?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}
