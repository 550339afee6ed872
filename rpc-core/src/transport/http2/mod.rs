//! Driving the HTTP/2 engine with sockets and timers.

pub(crate) mod assembler;
pub(crate) mod busy_poll;
pub(crate) mod client;
mod client_driver;
mod client_halves;
pub(crate) mod fields;

pub(crate) mod socket;
mod templates;
#[cfg(test)]
mod tests;
pub(crate) mod wheel;
