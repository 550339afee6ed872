//! A method of the service is not implemented.

mod proto {
    include!("../golden/route_guide.rs");
}

use proto::{Feature, Point, Rectangle, RouteGuide, RouteNote, RouteSummary};
use rpc_core::{RecvStream, Request, Response, SendStream, Status};

struct Guide;

impl RouteGuide for Guide {
    async fn get_feature(&self, _: Request<Point>) -> Result<Response<Feature>, Status> {
        Ok(Response::new(Feature::default()))
    }
    async fn list_features(
        &self,
        _: Request<Rectangle>,
        _: &mut SendStream<Feature>,
    ) -> Result<(), Status> {
        Ok(())
    }
    async fn route_chat(
        &self,
        _: Request<RecvStream<RouteNote>>,
        _: &mut SendStream<RouteNote>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

fn main() {
    let _: Option<RouteSummary> = None;
}
