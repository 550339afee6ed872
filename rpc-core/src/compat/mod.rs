//! A [`Router`](crate::server::Router) as a `tower` service of HTTP requests, for hyper and axum.

mod body;
mod fields;
mod outbox;
mod request;
mod service;

pub use body::Body;
pub use service::RouterService;
