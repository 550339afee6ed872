//! Resolvers that need no registry server.

use std::sync::Arc;

use rpc_core::client::{Endpoint, Resolver};
use rpc_core::{BoxFuture, Status};

use crate::hub::{Hub, Mailbox, Watching};

/// Follows a registry in this process.
pub(crate) struct MemoryResolver {
    hub: Arc<Hub>,
    service: String,
    mailbox: Arc<Mailbox>,
    /// Nothing while the registry has as many watches as it takes, and before the first list.
    watching: Option<Watching>,
}

impl MemoryResolver {
    pub(crate) fn new(hub: &Arc<Hub>, service: &str) -> Self {
        Self {
            hub: Arc::clone(hub),
            service: service.to_owned(),
            mailbox: Arc::default(),
            watching: None,
        }
    }
}

impl Resolver for MemoryResolver {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Endpoint>, Status>> {
        Box::pin(async {
            if self.watching.is_some() {
                self.mailbox.notified().await;
                self.mailbox.take();
            } else {
                let watching = self.hub.watch(&self.service, None, 0, &self.mailbox);
                self.watching = Some(watching.map_err(|most| {
                    Status::resource_exhausted(format!("the registry has {most} watches already"))
                })?);
            }
            Ok(self.hub.endpoints(&self.service))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::Registry;
    use rpc_core::client::{Address, Resolver};

    fn address(port: u16) -> Address {
        format!("127.0.0.1:{port}").parse().unwrap()
    }

    async fn ports(resolver: &mut dyn Resolver) -> Vec<String> {
        resolver
            .next()
            .await
            .unwrap()
            .iter()
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    }

    #[tokio::test]
    async fn a_registration_in_memory_is_seen_at_once_and_only_under_its_name() {
        let registry = Registry::memory();
        let mut resolver = registry.resolver("s");
        assert!(ports(&mut *resolver).await.is_empty());
        let lease = registry.register("s", address(1)).unwrap();
        let _other = registry.register("t", address(2)).unwrap();
        lease.ready().await.unwrap();
        assert!(lease.is_ready());
        assert_eq!(ports(&mut *resolver).await, ["127.0.0.1:1"]);
        lease.deregister().await.unwrap();
        assert!(ports(&mut *resolver).await.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_lease_is_gone() {
        let registry = Registry::memory();
        let lease = registry.register("s", address(1)).unwrap();
        let mut resolver = registry.resolver("s");
        assert_eq!(ports(&mut *resolver).await.len(), 1);
        drop(lease);
        assert!(ports(&mut *resolver).await.is_empty());
    }

    #[tokio::test]
    async fn two_memory_registries_are_apart_and_the_default_is_one() {
        let _lease = Registry::memory().register("apart", address(1)).unwrap();
        assert!(
            ports(&mut *Registry::memory().resolver("apart"))
                .await
                .is_empty()
        );
        let _lease = Registry::memory_default()
            .register("shared", address(1))
            .unwrap();
        assert_eq!(
            ports(&mut *Registry::memory_default().resolver("shared"))
                .await
                .len(),
            1
        );
    }

    #[test]
    fn each_registration_is_an_instance_of_its_own() {
        let registry = Registry::memory();
        let first = registry.register("s", address(1)).unwrap();
        let second = registry.register("s", address(2)).unwrap();
        assert_ne!(first.endpoint().instance, second.endpoint().instance);
        assert_eq!(first.service(), "s");
    }

    #[test]
    fn what_nobody_can_connect_to_is_refused() {
        let registry = Registry::memory();
        let unspecified: Address = "0.0.0.0:80".parse().unwrap();
        let status = registry.register("s", unspecified).unwrap_err();
        assert!(
            status.message().contains("0.0.0.0:80 cannot be advertised"),
            "{status}"
        );
        assert!(registry.register("", address(1)).is_err());
    }
}
