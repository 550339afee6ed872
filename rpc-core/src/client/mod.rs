//! The client: [`Channel`] and what it is made of.

mod attempt;
mod backoff;
mod balancer;
mod budget;
mod builder;
mod call;
mod channel;
mod control;
mod endpoint;
mod guard;
mod idle;
mod in_process;
mod interceptor;
mod observer;
mod pick_first;
mod random;
mod resolver;
mod standing;
mod stream;
mod subchannel;
mod tracker;
mod upload;

pub(crate) use attempt::Reached;
pub use balancer::{
    Candidate, ConnectivityState, LoadBalancer, Pick, PickContext, Picker, Update, Updates,
};
pub use builder::ChannelBuilder;
pub(crate) use call::Failed;
pub use channel::Channel;
pub(crate) use endpoint::without_zone;
pub use endpoint::{Address, Endpoint, InvalidAddress};
pub(crate) use idle::Activity;
pub use interceptor::{ClientCall, ClientInterceptor, Next, Reply};
pub use observer::{CallObserver, FinishedCall};
pub use pick_first::PickFirst;
pub use resolver::{Resolver, StaticResolver};
pub use standing::Standing;
pub use stream::{ClientStream, RequestStream, SendPermit};
pub(crate) use stream::{OpenedRecv, not_started};
pub use subchannel::Subchannel;
pub use tracker::{Attempt, AttemptEnd, CallTracker};
