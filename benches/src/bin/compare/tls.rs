//! The certificate of a run over TLS.

use bench_driver::Tls;
use benches::Outcome;

/// A directory with a new certificate and its key, until it is dropped.
pub(crate) fn certificate() -> Outcome<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let path = |name| directory.path().join(name);
    std::fs::write(path(Tls::CERTIFICATE), made.cert.pem())?;
    std::fs::write(path(Tls::KEY), made.signing_key.serialize_pem())?;
    Ok(directory)
}
