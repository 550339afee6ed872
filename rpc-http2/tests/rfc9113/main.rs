//! The rules of RFC 9113 and RFC 7541, one by one, against a machine of either role.
#![allow(missing_docs, clippy::unwrap_used)]

mod frames;
mod keepalive;
mod kinds;
mod limits;
mod messages;
mod room;
mod sending;
mod streams;
mod support;
mod waiting;
