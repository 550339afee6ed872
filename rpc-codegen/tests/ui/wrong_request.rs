//! A handler takes another message than the service says.

mod proto {
    include!("../golden/_.rs");
}

use proto::{Plain, bare::Inner};
use rpc_core::{Request, Response, Status};

struct Served;

impl Plain for Served {
    async fn get(&self, request: Request<Inner>) -> Result<Response<Inner>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

fn main() {}
