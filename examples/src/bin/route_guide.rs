//! The four kinds of call: a server and a client of them in one program, over a real socket.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use examples::route_guide::{
    Feature, Point, Rectangle, RouteGuide, RouteGuideClient, RouteGuideServer, RouteNote,
    RouteSummary,
};
use rpc_core::{Channel, RecvStream, Request, Response, SendStream, Server, Status};

const fn point(latitude: i32, longitude: i32) -> Point {
    Point {
        latitude,
        longitude,
    }
}

/// Name and place of every sight.
const SIGHTS: [(&str, Point); 3] = [
    ("Lighthouse", point(540_123_400, 121_456_700)),
    ("Old mill", point(540_200_000, 121_500_000)),
    ("Stone circle", point(541_000_000, 122_000_000)),
];

/// The service.
#[derive(Default)]
struct Guide {
    notes: Mutex<HashMap<(i32, i32), Vec<RouteNote>>>,
}

impl Guide {
    /// Leaves a note and returns those that were there before.
    fn leave(&self, place: Point, note: RouteNote) -> Vec<RouteNote> {
        // A panic elsewhere leaves the notes as they were.
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let here = notes.entry((place.latitude, place.longitude)).or_default();
        let before = here.clone();
        here.push(note);
        before
    }
}

fn feature(name: &str, location: Point) -> Feature {
    Feature {
        name: name.to_owned(),
        location: Some(location),
    }
}

/// The metres between two points, on a map flat enough for a walk.
fn distance(from: Point, to: Point) -> f64 {
    const METRES: f64 = 0.011_119;
    let north = f64::from(to.latitude - from.latitude) * METRES;
    let middle = (f64::from(from.latitude) * 1e-7).to_radians();
    let east = f64::from(to.longitude - from.longitude) * METRES * middle.cos();
    north.hypot(east)
}

impl RouteGuide for Guide {
    async fn get_feature(&self, request: Request<Point>) -> Result<Response<Feature>, Status> {
        let place = request.into_inner();
        let found = SIGHTS.iter().find(|(_, location)| *location == place);
        let name = found.map_or("", |(name, _)| name);
        Ok(Response::new(feature(name, place)))
    }

    async fn list_features(
        &self,
        request: Request<Rectangle>,
        features: &mut SendStream<Feature>,
    ) -> Result<(), Status> {
        let Rectangle {
            low: Some(low),
            high: Some(high),
        } = request.into_inner()
        else {
            return Err(Status::invalid_argument("a rectangle has two corners"));
        };
        for (name, place) in SIGHTS {
            if (low.latitude..=high.latitude).contains(&place.latitude)
                && (low.longitude..=high.longitude).contains(&place.longitude)
            {
                features.send(feature(name, place)).await?;
            }
        }
        Ok(())
    }

    async fn record_route(
        &self,
        request: Request<RecvStream<Point>>,
    ) -> Result<Response<RouteSummary>, Status> {
        let mut points = request.into_inner();
        let mut summary = RouteSummary::default();
        let mut metres = 0.0;
        let mut last = None;
        while let Some(point) = points.recv().await? {
            summary.points += 1;
            summary.features += u32::from(SIGHTS.iter().any(|(_, place)| *place == point));
            metres += last.map_or(0.0, |last| distance(last, point));
            last = Some(point);
        }
        summary.distance = metres as u32;
        Ok(Response::new(summary))
    }

    async fn route_chat(
        &self,
        request: Request<RecvStream<RouteNote>>,
        answers: &mut SendStream<RouteNote>,
    ) -> Result<(), Status> {
        let mut notes = request.into_inner();
        while let Some(note) = notes.recv().await? {
            let place = note
                .location
                .ok_or_else(|| Status::invalid_argument("a note needs a location"))?;
            for before in self.leave(place, note) {
                answers.send(before).await?;
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder()
        .add_service(RouteGuideServer::new(Guide::default()))
        .bind("127.0.0.1:0")
        .await?;
    let (uri, end) = (server.uri(), server.shutdown_handle());
    let serving = tokio::spawn(server.serve());
    walk(&RouteGuideClient::new(Channel::connect(&uri).await?)).await?;
    end.shutdown();
    Ok(serving.await??)
}

async fn walk(guide: &RouteGuideClient) -> Result<(), Status> {
    let (_, lighthouse) = SIGHTS[0];
    let request = Request::new(lighthouse).with_timeout(Duration::from_millis(200));
    let found = guide.get_feature(request).await?.into_inner();
    println!("at the first point: {}", found.name);

    let mut sights = guide.list_features(Rectangle {
        low: Some(point(540_000_000, 121_000_000)),
        high: Some(point(540_500_000, 121_900_000)),
    });
    while let Some(sight) = sights.recv().await? {
        println!("in the rectangle: {}", sight.name);
    }

    let mut route = guide.record_route(());
    for (_, place) in SIGHTS {
        route.send(place).await?;
    }
    let summary = route.finish().await?.into_inner();
    println!(
        "walked {} points, {} sights, {} m",
        summary.points, summary.features, summary.distance
    );

    let (mut notes, mut answers) = guide.route_chat(());
    for message in ["First!", "Second."] {
        notes
            .send(RouteNote {
                location: Some(lighthouse),
                message: message.to_owned(),
            })
            .await?;
    }
    notes.finish().await?;
    while let Some(note) = answers.recv().await? {
        println!("somebody wrote here: {}", note.message);
    }
    Ok(())
}
