//! A handler holds what cannot move between threads while it waits.

mod proto {
    include!("../golden/_.rs");
}

use std::rc::Rc;

use proto::{Bare, Plain, bare::Inner};
use rpc_core::{Request, Response, Status};

struct Served;

impl Plain for Served {
    async fn get(&self, request: Request<Bare>) -> Result<Response<Inner>, Status> {
        let text = Rc::new(request.into_inner().text);
        std::future::ready(()).await;
        Ok(Response::new(Inner { text: text.to_string() }))
    }
}

fn main() {}
