//! One connection of a server: calls come in through the engine, handlers run, answers go out.

mod calls;
mod driver;
mod halves;
mod heads;
mod report;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rpc_http2::{Config, Connection as Machine, Role};
use tokio::time::Instant;

use super::builder::Options;
use super::router::Router;
use super::shutdown::ShutdownHandle;
use crate::request::PeerAddr;
use crate::transport::connector::Io;
use calls::State;
use driver::Driver;

/// What all connections of a server share.
#[derive(Clone)]
pub(crate) struct Served(Arc<Inner>);

struct Inner {
    router: Router,
    options: Options,
    /// Handlers that are running.
    handlers: AtomicUsize,
}

impl Served {
    pub(crate) fn new(router: Router, options: Options) -> Self {
        Self(Arc::new(Inner {
            router,
            options,
            handlers: AtomicUsize::new(0),
        }))
    }

    /// Serves a connection until it closes, or until the calls that were open at the shutdown are done.
    pub(crate) async fn serve(self, io: Box<dyn Io>, peer: PeerAddr, shutdown: ShutdownHandle) {
        let config = Config {
            max_streams: self.0.options.max_concurrent_streams,
            ..Config::default()
        };
        let now = Instant::now().into_std();
        let machine = Machine::new(Role::Server, config, now);
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(machine, now)),
            served: self.0,
            peer,
        });
        let mut driver = Driver::new(shared, io);
        let mut requested = Some(Box::pin(shutdown.requested()));
        std::future::poll_fn(move |cx| {
            if let Some(waiting) = &mut requested
                && waiting.as_mut().poll(cx).is_ready()
            {
                requested = None;
                driver.shut_down();
            }
            driver.poll(cx)
        })
        .await;
    }
}

/// What the driver and the handlers of a connection share.
struct Shared {
    state: Mutex<State>,
    served: Arc<Inner>,
    peer: PeerAddr,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
