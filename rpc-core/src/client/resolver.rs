//! From a name to endpoints: [`Resolver`].

use super::balancer::ConnectivityState;
use super::endpoint::{Address, Endpoint};
use crate::{BoxFuture, Status};

/// Says which endpoints a name has, now and whenever that changes.
pub trait Resolver: Send + 'static {
    /// Waits for the next full list, or for an error; an error leaves the last list in force.
    ///
    /// Stays pending for as long as nothing changes. Must be cancel safe.
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Endpoint>, Status>>;

    /// A hint that connections fail, so that asking again may help.
    fn refresh(&mut self) {}

    /// Told when the state of the connection to an endpoint has changed: a resolver may doubt a word
    /// that says that an endpoint is gone which still answers. Must return at once.
    fn connection(&mut self, address: &Address, state: ConnectivityState) {
        let _ = (address, state);
    }
}

/// A list that never changes.
#[derive(Debug)]
pub struct StaticResolver(Option<Vec<Endpoint>>);

impl StaticResolver {
    /// A resolver of these endpoints.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self(Some(endpoints))
    }
}

impl Resolver for StaticResolver {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Endpoint>, Status>> {
        match self.0.take() {
            Some(endpoints) => Box::pin(std::future::ready(Ok(endpoints))),
            None => Box::pin(std::future::pending()),
        }
    }
}
