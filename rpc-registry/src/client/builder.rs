//! Settings of a [`Registry`]: [`RegistryBuilder`].

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rpc_core::client::Address;
use rpc_core::{ClientTls, Metadata, Status};

use super::peer::{Access, Peer, authorize};
use super::{Backend, Registry};
use crate::target::Target;

/// How many registry servers one URI names.
const MOST_REGISTRIES: usize = 64;

/// The variable with the token, for those who set none.
const TOKEN: &str = "RPC_REGISTRY_TOKEN";
/// The variable with a file of root certificates, for those who set no TLS.
const ROOTS: &str = "RPC_REGISTRY_CA_FILE";

/// Settings of a [`Registry`].
///
/// ```no_run
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = rpc_registry::Registry::builder("registry+tls://registry.example:50100")
///     .token(std::fs::read_to_string("/etc/rpc-registry/token")?)
///     .tls(rpc_core::ClientTls::from_root_file("/etc/rpc-registry/roots.pem")?)
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "settings do nothing until they are built"]
pub struct RegistryBuilder {
    uri: String,
    token: Option<String>,
    tls: Option<ClientTls>,
    ttl: Option<Duration>,
    plaintext: bool,
}

impl std::fmt::Debug for RegistryBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryBuilder")
            .field("uri", &self.uri)
            .field("token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

impl RegistryBuilder {
    pub(crate) fn new(uri: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            token: None,
            tls: None,
            ttl: None,
            plaintext: false,
        }
    }

    /// What the registry servers ask for, white space at its ends left out; by default the value of
    /// `RPC_REGISTRY_TOKEN`.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How the registry servers prove who they are, for a URI with `registry+tls://`; by default by
    /// the roots in the file that `RPC_REGISTRY_CA_FILE` names, or by those of the system.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// As [`Registry::lease_ttl`].
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sends the token to other machines without TLS, where everyone on the way can read it. Only for
    /// networks that encrypt by themselves.
    pub fn dangerous_plaintext_token(mut self) -> Self {
        self.plaintext = true;
        self
    }

    /// Makes the handle; nothing is connected yet.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no such URI, a token that cannot be sent, and TLS settings for
    /// a URI without `registry+tls://`; `FAILED_PRECONDITION` for a token that would go to another
    /// machine without TLS, and for root certificates that cannot be read.
    pub fn build(self) -> Result<Registry, Status> {
        self.build_with(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn build_with(self, variable: impl Fn(&str) -> Option<String>) -> Result<Registry, Status> {
        let (servers, secure) = Target::parse_registry(&self.uri)?;
        let tls = match (secure, self.tls) {
            (true, Some(tls)) => Some(tls),
            (true, None) => Some(roots(variable(ROOTS))?),
            (false, None) => None,
            (false, Some(_)) => {
                return Err(Status::invalid_argument(format!(
                    "{:?} has TLS settings and names registries without TLS: write registry+tls://",
                    self.uri
                )));
            }
        };
        let token = self.token.or_else(|| variable(TOKEN));
        let mut authorization = None;
        if let Some(token) = token {
            let far = servers.iter().find(|server| !is_near(server));
            if let Some(far) = far
                && tls.is_none()
                && !self.plaintext
            {
                return Err(Status::failed_precondition(format!(
                    "the token would go to {far} in the clear: give the registry TLS and write registry+tls://, or call dangerous_plaintext_token"
                )));
            }
            let value = format!("Bearer {}", token.trim());
            // Here, where somebody sees it.
            authorize(&mut Metadata::new(), &value)?;
            authorization = Some(value.into());
        }
        let access = Access { authorization, tls };
        let mut seen = HashSet::new();
        let peers: Arc<[Arc<Peer>]> = servers
            .into_iter()
            .map(canonical)
            .filter(|server| seen.insert(server.clone()))
            .map(|server| Arc::new(Peer::new(server, access.clone())))
            .collect();
        if peers.len() > MOST_REGISTRIES {
            return Err(Status::invalid_argument(format!(
                "{} registry servers are more than {MOST_REGISTRIES}",
                peers.len()
            )));
        }
        Ok(Registry {
            backend: Backend::Remote(peers),
            ttl: self.ttl,
        })
    }
}

fn roots(file: Option<String>) -> Result<ClientTls, Status> {
    let roots = match &file {
        Some(file) => ClientTls::from_root_file(file),
        None => ClientTls::system_roots(),
    };
    roots.map_err(|error| {
        Status::failed_precondition(
            "the root certificates for the registry cannot be had: set RPC_REGISTRY_CA_FILE or RegistryBuilder::tls",
        )
        .with_source(error)
    })
}

/// One spelling of an address.
fn canonical(address: Address) -> Address {
    match &address {
        Address::Tcp { host, port } => match host.parse::<IpAddr>() {
            Ok(ip) => Address::Tcp {
                host: ip.to_canonical().to_string().into(),
                port: *port,
            },
            Err(_) => Address::Tcp {
                host: host.to_ascii_lowercase().into(),
                port: *port,
            },
        },
        _ => address,
    }
}

/// Whether what goes to an address stays on this machine.
fn is_near(address: &Address) -> bool {
    match address {
        Address::Tcp { host, .. } => {
            host.eq_ignore_ascii_case("localhost")
                || host
                    .parse::<IpAddr>()
                    .is_ok_and(|ip| ip.to_canonical().is_loopback())
        }
        Address::Unix(_) | Address::UnixAbstract(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc_core::Code;

    fn build(
        uri: &str,
        change: impl FnOnce(RegistryBuilder) -> RegistryBuilder,
    ) -> Result<Registry, Status> {
        change(RegistryBuilder::new(uri)).build_with(|_| None)
    }

    fn count(uri: &str) -> usize {
        match build(uri, |builder| builder).unwrap().backend {
            Backend::Remote(peers) => peers.len(),
            Backend::Local(_) => 0,
        }
    }

    #[test]
    fn one_registry_named_twice_counts_once() {
        assert_eq!(count("registry://127.0.0.1:1,127.0.0.1:1"), 1);
        assert_eq!(count("registry://[::1]:1,[0:0:0:0:0:0:0:1]:1"), 1);
        assert_eq!(count("registry://Host:1,host:1"), 1);
        assert_eq!(count("registry://127.0.0.1:1,127.0.0.1:2"), 2);
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear_to_another_machine() {
        for near in [
            "registry://127.0.0.1:1",
            "registry://localhost:1",
            "registry://[::1]:1",
        ] {
            build(near, |builder| builder.token("t")).unwrap();
        }
        let status = build("registry://10.0.0.1:1", |builder| builder.token("t")).unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("registry+tls://"), "{status}");
        let loud = |builder: RegistryBuilder| builder.token("t").dangerous_plaintext_token();
        build("registry://10.0.0.1:1", loud).unwrap();
        let from_environment = RegistryBuilder::new("registry://10.0.0.1:1")
            .build_with(|name| (name == TOKEN).then(|| "t".to_owned()));
        assert!(from_environment.is_err());
    }

    #[test]
    fn what_cannot_be_sent_is_refused_at_once() {
        let status = build("registry://127.0.0.1:1", |builder| builder.token("a\nb")).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let text = format!(
            "{:?}",
            RegistryBuilder::new("registry://a:1").token("secret")
        );
        assert!(!text.contains("secret"), "{text}");
    }
}
