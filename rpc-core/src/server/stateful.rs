//! A service whose handlers share one value: [`StatefulService`].

use std::future::Future;
use std::sync::Arc;

use super::handler::Finished;
use super::router::Service;
use super::send::SendStream;
use crate::stream::RecvStream;
use crate::{Method, Request, Response, Status};

/// A [`Service`] whose handlers are all given the same value, as generated servers are made.
pub struct StatefulService<S> {
    service: Service,
    state: Arc<S>,
}

impl<S> std::fmt::Debug for StatefulService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StatefulService")
            .field(&self.service)
            .finish()
    }
}

impl<S: Send + Sync + 'static> StatefulService<S> {
    /// A service without methods.
    #[must_use]
    pub fn new(name: &'static str, state: Arc<S>) -> Self {
        Self {
            service: Service::new(name),
            state,
        }
    }

    /// Adds a unary method.
    #[must_use]
    pub fn unary<Q, R, F, Fut>(mut self, method: &Method<Q, R>, handler: F) -> Self
    where
        Q: Send + 'static,
        R: Send + 'static,
        F: Fn(Arc<S>, Request<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        self.service = self.service.unary(method, &self.state, handler);
        self
    }

    /// Adds a client-streaming method.
    #[must_use]
    pub fn client_streaming<Q, R, F, Fut>(mut self, method: &Method<Q, R>, handler: F) -> Self
    where
        Q: Send + 'static,
        R: Send + 'static,
        F: Fn(Arc<S>, Request<RecvStream<Q>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        self.service = self.service.client_streaming(method, &self.state, handler);
        self
    }

    /// Adds a server-streaming method.
    #[must_use]
    pub fn server_streaming<Q, R, F, Fut>(mut self, method: &Method<Q, R>, handler: F) -> Self
    where
        Q: Send + 'static,
        R: Send + 'static,
        F: Fn(Arc<S>, Request<Q>, SendStream<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Finished> + Send + 'static,
    {
        self.service = self.service.server_streaming(method, &self.state, handler);
        self
    }

    /// Adds a bidirectional method.
    #[must_use]
    pub fn bidi_streaming<Q, R, F, Fut>(mut self, method: &Method<Q, R>, handler: F) -> Self
    where
        Q: Send + 'static,
        R: Send + 'static,
        F: Fn(Arc<S>, Request<RecvStream<Q>>, SendStream<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Finished> + Send + 'static,
    {
        self.service = self.service.bidi_streaming(method, &self.state, handler);
        self
    }
}

impl<S> From<StatefulService<S>> for Service {
    fn from(stateful: StatefulService<S>) -> Self {
        stateful.service
    }
}

/// Makes a generated server, which holds nothing but its [`Service`], one.
#[doc(hidden)]
#[macro_export]
macro_rules! into_service {
    ($server:ident) => {
        impl ::core::convert::From<$server> for $crate::server::Service {
            fn from(server: $server) -> Self {
                server.0
            }
        }
    };
}
