//! The standard health service, `grpc.health.v1.Health`.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::codec::{Codec, Method};
use crate::server::Service;
use crate::{Response, Status};

/// The message of `Check` and `Watch`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct HealthCheckRequest {
    /// The service to ask about; empty for the whole server.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// The answer of `Check` and `Watch`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct HealthCheckResponse {
    /// The status.
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub status: i32,
}

/// Whether a service takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ServingStatus {
    /// Nothing is known.
    Unknown = 0,
    /// It takes calls.
    Serving = 1,
    /// It does not.
    NotServing = 2,
    /// There is no such service; `Watch` only.
    ServiceUnknown = 3,
}

/// `/grpc.health.v1.Health/Check`.
pub const CHECK: Method<HealthCheckRequest, HealthCheckResponse> = Method::unary(
    "/grpc.health.v1.Health/Check",
    Codec::prost(),
    Codec::prost(),
)
.no_side_effects();
/// `/grpc.health.v1.Health/Watch`.
pub const WATCH: Method<HealthCheckRequest, HealthCheckResponse> = Method::server_streaming(
    "/grpc.health.v1.Health/Watch",
    Codec::prost(),
    Codec::prost(),
)
.no_side_effects();

/// The health of a server and of each of its services; cheap to clone.
///
/// The server as a whole (the empty name) is `SERVING` until it shuts down.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<State>>);

#[derive(Debug)]
struct State {
    services: HashMap<String, ServingStatus>,
    ended: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A server that is serving.
    #[must_use]
    pub fn new() -> Self {
        let services = HashMap::from([(String::new(), ServingStatus::Serving)]);
        Self(Arc::new(watch::Sender::new(State {
            services,
            ended: false,
        })))
    }

    /// Sets the status of a service; those who watch it are told.
    pub fn set(&self, service: impl Into<String>, status: ServingStatus) {
        // The conversion is the caller's, and not for under the lock.
        let service = service.into();
        self.0.send_modify(|state| {
            state.services.insert(service, status);
        });
    }

    /// From now on everything is `NOT_SERVING`, whatever is set; those who watch are told, and their
    /// calls end with `UNAVAILABLE`.
    pub fn shutdown(&self) {
        self.0.send_modify(|state| state.ended = true);
    }

    /// The service to add to a server.
    #[must_use]
    pub fn service(&self) -> Service {
        Service::new("grpc.health.v1.Health")
            .unary(&CHECK, &self.0, |state, request| async move {
                let service = &request.get_ref().service;
                let status = state.borrow().status(service);
                match status {
                    Some(status) => Ok(Response::new(HealthCheckResponse {
                        status: status as i32,
                    })),
                    None => Err(Status::not_found(format!(
                        "the health of the service {service:?} is not known"
                    ))),
                }
            })
            .server_streaming(
                &WATCH,
                &self.0,
                |state, request, mut responses| async move {
                    let mut changes = state.subscribe();
                    let mut draining = request.server_draining();
                    let service = request.into_inner().service;
                    let mut last = None;
                    loop {
                        let drains = draining.has_begun();
                        let (status, ended) = {
                            let state = changes.borrow_and_update();
                            (state.status(&service), state.ended || drains)
                        };
                        let status = match status {
                            Some(_) if ended => ServingStatus::NotServing,
                            Some(status) => status,
                            None => ServingStatus::ServiceUnknown,
                        };
                        if last.replace(status) != Some(status) {
                            let message = HealthCheckResponse {
                                status: status as i32,
                            };
                            if let Err(gone) = responses.send(message).await {
                                return responses.finish(Err(gone));
                            }
                        }
                        if ended {
                            // A server that drains would wait for it; whoever watches asks another one.
                            return responses.finish(Err(Status::unavailable(
                                "the server ends; watch again on another one",
                            )));
                        }
                        tokio::select! {
                            // The sender is part of the state, which this handler holds.
                            _ = changes.changed() => {}
                            () = &mut draining => {}
                        }
                    }
                },
            )
    }
}

impl State {
    fn status(&self, service: &str) -> Option<ServingStatus> {
        let status = self.services.get(service).copied();
        if self.ended {
            status.map(|_| ServingStatus::NotServing)
        } else {
            status
        }
    }
}
