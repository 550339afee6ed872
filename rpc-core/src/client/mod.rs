//! The client: [`Channel`] and what it is made of.

mod attempt;
mod balancer;
mod budget;
mod builder;
mod call;
mod channel;
mod control;
mod endpoint;
mod in_process;
mod interceptor;
mod observer;
mod pick_first;
mod random;
mod resolver;
mod stream;
mod subchannel;
mod upload;

pub(crate) use attempt::Reached;
pub use balancer::{
    CallTracker, Candidate, ConnectivityState, LoadBalancer, Pick, PickContext, Picker, Update,
};
pub use builder::ChannelBuilder;
pub(crate) use call::Failed;
pub use channel::Channel;
pub(crate) use endpoint::without_zone;
pub use endpoint::{Address, Endpoint, InvalidAddress};
pub use interceptor::{ClientCall, ClientInterceptor, Next, Reply};
pub use observer::{CallObserver, FinishedCall};
pub use pick_first::PickFirst;
pub use resolver::{Resolver, StaticResolver};
pub use stream::{ClientStream, RequestStream, SendPermit};
pub(crate) use stream::{OpenedRecv, not_started};
pub use subchannel::Subchannel;
