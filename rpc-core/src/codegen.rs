//! What generated code names; no part of the interface.

pub use std::future::Future;

pub use crate::server::{Finished, StatefulService};
pub use crate::{
    Channel, ClientStream, IntoRequest, Method, RecvStream, Request, RequestStream, Response,
    SendStream, Status,
};
