//! Who may call a registry: [`Access`].

use std::io;
use std::sync::Arc;

use rpc_core::{PeerAddr, Request, Status};

use crate::identity::Token;

/// The rules of one registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    tokens: Vec<Token>,
    empty_token: bool,
    /// Whether callers from other machines need no token.
    pub(crate) open: bool,
}

/// Who calls, for logs and bounds.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: Arc<str>,
    /// The connection, where it has an address of its own.
    pub(crate) connection: Option<Arc<str>>,
}

impl Access {
    pub(crate) fn add_token(&mut self, token: &str) {
        let token = token.trim();
        self.empty_token |= token.is_empty();
        self.tokens.push(Token::new(token));
    }

    /// An empty token is a mistake that would open the registry to everyone who makes it too.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.empty_token {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the registry's token is empty: give it at least 16 random characters",
            ));
        }
        Ok(())
    }

    /// Lets a call in, or says why not and logs it.
    pub(crate) fn admit<T>(&self, request: &Request<T>, method: &str) -> Result<Caller, Status> {
        let caller = Caller::of(request.peer_addr());
        let authorization = request.metadata().get("authorization");
        let allowed = self.decide(request.peer_addr(), authorization);
        allowed.map_err(|status| {
            tracing::warn!(peer = &*caller.name, method, %status, "refused");
            status
        })?;
        Ok(caller)
    }

    fn decide(&self, peer: Option<&PeerAddr>, authorization: Option<&str>) -> Result<(), Status> {
        if self.tokens.is_empty() {
            if self.open || is_near(peer) {
                return Ok(());
            }
            return Err(Status::permission_denied(
                "this registry has no token and serves its own machine only: start it with a token (RegistryServerBuilder::token, rpc-registry --token-file) and give that to servers and clients",
            ));
        }
        let Some(authorization) = authorization else {
            return Err(Status::unauthenticated(
                "this registry wants a token: set RPC_REGISTRY_TOKEN or Registry::builder(…).token(…)",
            ));
        };
        // All are looked at, so that the time does not tell which one was right.
        let admitted = self
            .tokens
            .iter()
            .fold(false, |found, token| found | token.admits(authorization));
        if admitted {
            return Ok(());
        }
        Err(Status::unauthenticated(
            "the token is not that of this registry: compare RPC_REGISTRY_TOKEN or Registry::builder(…).token(…) with the registry's own",
        ))
    }
}

impl Caller {
    fn of(peer: Option<&PeerAddr>) -> Self {
        let name: Arc<str> = peer
            .map_or_else(|| "unknown".to_owned(), ToString::to_string)
            .into();
        Self {
            connection: matches!(peer, Some(PeerAddr::Tcp(_))).then(|| Arc::clone(&name)),
            name,
        }
    }
}

/// Whether a caller is on this machine.
fn is_near(peer: Option<&PeerAddr>) -> bool {
    match peer {
        Some(PeerAddr::Tcp(address)) => address.ip().to_canonical().is_loopback(),
        Some(PeerAddr::Unix | PeerAddr::InProcess) => true,
        // A kind of connection that is not known here, or none.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc_core::Code;

    fn tcp(address: &str) -> PeerAddr {
        PeerAddr::Tcp(address.parse().unwrap())
    }

    fn code(access: &Access, peer: &PeerAddr, authorization: Option<&str>) -> Option<Code> {
        let decided = access.decide(Some(peer), authorization);
        decided.err().map(|status| status.code())
    }

    #[test]
    fn without_a_token_only_the_own_machine_is_let_in() {
        let access = Access::default();
        for near in [
            "127.0.0.1:1",
            "127.8.0.1:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(code(&access, &tcp(near), None), None, "{near}");
        }
        assert_eq!(code(&access, &PeerAddr::Unix, None), None);
        for far in ["10.0.0.1:1", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:1"] {
            let refused = code(&access, &tcp(far), None);
            assert_eq!(refused, Some(Code::PermissionDenied), "{far}");
        }
        let open = Access {
            open: true,
            ..Access::default()
        };
        assert_eq!(code(&open, &tcp("10.0.0.1:1"), None), None);
    }

    #[test]
    fn with_a_token_everyone_needs_it() {
        let mut access = Access::default();
        access.add_token("old\n");
        access.add_token("new");
        access.open = true;
        for peer in [PeerAddr::Unix, tcp("127.0.0.1:1"), tcp("10.0.0.1:1")] {
            assert_eq!(code(&access, &peer, None), Some(Code::Unauthenticated));
            let wrong = code(&access, &peer, Some("Bearer other"));
            assert_eq!(wrong, Some(Code::Unauthenticated));
            assert_eq!(code(&access, &peer, Some("Bearer old")), None);
            assert_eq!(code(&access, &peer, Some("Bearer new")), None);
        }
    }

    #[test]
    fn an_empty_token_is_a_mistake() {
        let mut access = Access::default();
        access.add_token(" \n");
        assert!(access.check().unwrap_err().to_string().contains("empty"));
    }
}
