//! The golden files compile, without a warning, and their services answer calls.
#![deny(warnings)]

use rpc_core::server::Router;
use rpc_core::{
    Channel, Code, Idempotency, RecvStream, Request, Response, SendStream, Status, server,
};

use crate::generated as golden;

fn channel(service: impl Into<server::Service>) -> Channel {
    Channel::in_process(Router::new().add_service(service)).unwrap()
}

/// Sends back each message.
async fn mirror<T>(
    requests: Request<RecvStream<T>>,
    responses: &mut SendStream<T>,
) -> Result<(), Status> {
    let mut requests = requests.into_inner();
    while let Some(message) = requests.recv().await? {
        responses.send(message).await?;
    }
    Ok(())
}

async fn last<T: Default>(requests: Request<RecvStream<T>>) -> Result<Response<T>, Status> {
    let mut requests = requests.into_inner();
    let mut last = T::default();
    while let Some(message) = requests.recv().await? {
        last = message;
    }
    Ok(Response::new(last))
}

/// `async fn name(&self, Request<T>) -> Result<Response<T>, Status>` for each name.
macro_rules! echo {
    ($message:ty: $($name:ident)*) => {
        $(async fn $name(&self, request: Request<$message>) -> Result<Response<$message>, Status> {
            Ok(Response::new(request.into_inner()))
        })*
    };
}

mod route_guide {
    use super::golden::route_guide::*;
    use super::*;

    struct Guide;

    impl RouteGuide for Guide {
        async fn get_feature(&self, request: Request<Point>) -> Result<Response<Feature>, Status> {
            Ok(Response::new(Feature {
                name: "here".to_owned(),
                location: Some(request.into_inner()),
            }))
        }
        async fn list_features(
            &self,
            request: Request<Rectangle>,
            responses: &mut SendStream<Feature>,
        ) -> Result<(), Status> {
            let Rectangle { lo, hi } = request.into_inner();
            for location in [lo, hi] {
                let name = String::new();
                responses.send(Feature { name, location }).await?;
            }
            Err(Status::new(Code::OutOfRange, "no more"))
        }
        async fn record_route(
            &self,
            request: Request<RecvStream<Point>>,
        ) -> Result<Response<RouteSummary>, Status> {
            let mut points = request.into_inner();
            let mut point_count = 0;
            while points.recv().await?.is_some() {
                point_count += 1;
            }
            Ok(Response::new(RouteSummary { point_count }))
        }
        async fn route_chat(
            &self,
            request: Request<RecvStream<RouteNote>>,
            responses: &mut SendStream<RouteNote>,
        ) -> Result<(), Status> {
            mirror(request, responses).await
        }
    }

    #[tokio::test]
    async fn the_four_kinds_answer() {
        let client = RouteGuideClient::new(channel(RouteGuideServer::new(Guide)));
        let point = Point {
            latitude: 1,
            longitude: 2,
        };

        let feature = client.get_feature(point).await.unwrap().into_inner();
        assert_eq!(
            (feature.name.as_str(), feature.location),
            ("here", Some(point))
        );

        let mut features = client.list_features(Rectangle {
            lo: Some(point),
            hi: None,
        });
        assert_eq!(
            features.recv().await.unwrap().unwrap().location,
            Some(point)
        );
        assert_eq!(features.recv().await.unwrap().unwrap().location, None);
        assert_eq!(features.recv().await.unwrap_err().code(), Code::OutOfRange);

        let mut route = client.record_route(());
        for _ in 0..3 {
            route.send(point).await.unwrap();
        }
        assert_eq!(route.finish().await.unwrap().into_inner().point_count, 3);

        let (mut notes, mut echoes) = client.route_chat(());
        let note = RouteNote {
            location: Some(point),
            message: "hi".to_owned(),
        };
        notes.send(note.clone()).await.unwrap();
        assert_eq!(echoes.recv().await.unwrap(), Some(note));
        notes.finish().await.unwrap();
        assert_eq!(echoes.recv().await.unwrap(), None);
    }

    #[test]
    fn the_server_says_its_name_and_can_be_shared() {
        let guide = std::sync::Arc::new(Guide);
        let server = RouteGuideServer::from_arc(std::sync::Arc::clone(&guide));
        assert_eq!(server::Service::from(server).name(), RouteGuideServer::NAME);
        assert_eq!(RouteGuideServer::NAME, "route_guide.RouteGuide");
    }
}

mod keywords {
    use super::golden::keywords::*;
    use super::*;

    struct Words;

    impl Service for Words {
        echo!(Type: r#type);
        echo!(Message: crate_ extern_ r#async r#await r#gen r#try r#dyn union service message rpc self__);
        async fn r#match(
            &self,
            request: Request<Type>,
            responses: &mut SendStream<Type>,
        ) -> Result<(), Status> {
            responses.send(request.into_inner()).await
        }
        async fn self_(
            &self,
            request: Request<RecvStream<Self_>>,
        ) -> Result<Response<Self_>, Status> {
            last(request).await
        }
        async fn super_(
            &self,
            request: Request<RecvStream<Self_>>,
            responses: &mut SendStream<Self_>,
        ) -> Result<(), Status> {
            mirror(request, responses).await
        }
    }

    impl Trait for Words {
        echo!(Message: r#impl);
    }

    #[tokio::test]
    async fn names_that_are_keywords_are_called() {
        let client = ServiceClient::new(channel(ServiceServer::new(Words)));
        let message = Type {
            r#type: 1,
            self_: 2,
            r#match: Some(r#type::Impl { crate_: true }),
        };
        assert_eq!(client.r#type(message).await.unwrap().into_inner(), message);
        assert_eq!(client.r#match(message).recv().await.unwrap(), Some(message));

        let word = Self_ {
            super_: "word".to_owned(),
        };
        let mut words = client.self_(());
        words.send(word.clone()).await.unwrap();
        assert_eq!(words.finish().await.unwrap().into_inner(), word);
        let (mut words, mut echoes) = client.super_(());
        words.send(word.clone()).await.unwrap();
        assert_eq!(echoes.recv().await.unwrap(), Some(word));

        let message = Message {
            r#enum: Enum::Struct.into(),
        };
        assert_eq!(client.crate_(message).await.unwrap().into_inner(), message);
        assert_eq!(client.r#await(message).await.unwrap().into_inner(), message);
        // `self` and `Self` are two methods.
        assert_eq!(client.self__(message).await.unwrap().into_inner(), message);
        let client = TraitClient::new(channel(TraitServer::new(Words)));
        assert_eq!(client.r#impl(message).await.unwrap().into_inner(), message);
    }

    /// Paths have the names of the file, not those that Rust has for them.
    #[test]
    fn paths_are_those_of_the_file() {
        assert_eq!(
            service_service::SELF__.path(),
            "/keywords.type.match.service/Self"
        );
        assert_eq!(
            service_service::ASYNC.path(),
            "/keywords.type.match.service/async"
        );
        assert_eq!(TraitServer::NAME, "keywords.type.match.trait");
    }
}

mod methods {
    use super::golden::methods::*;
    use super::*;

    struct Served;

    impl Methods for Served {
        echo!(Text: new_ connect from_arc clone to_owned default request service name fmt type_id);
        async fn as_ref(
            &self,
            request: Request<RecvStream<Text>>,
            responses: &mut SendStream<Text>,
        ) -> Result<(), Status> {
            mirror(request, responses).await
        }
        async fn into_(
            &self,
            request: Request<Text>,
            responses: &mut SendStream<Text>,
        ) -> Result<(), Status> {
            responses.send(request.into_inner()).await
        }
        async fn drop(&self, request: Request<RecvStream<Text>>) -> Result<Response<Text>, Status> {
            last(request).await
        }
        async fn responses(
            &self,
            request: Request<Text>,
            responses: &mut SendStream<Text>,
        ) -> Result<(), Status> {
            responses.send(request.into_inner()).await
        }
    }

    #[tokio::test]
    async fn names_of_functions_that_are_there_already_are_called() {
        let client = MethodsClient::new(channel(MethodsServer::new(Served)));
        let text = Text {
            text: "x".to_owned(),
        };
        macro_rules! called {
            ($($name:ident)*) => {
                $(assert_eq!(client.$name(text.clone()).await.unwrap().into_inner(), text);)*
            };
        }
        called!(new_ connect from_arc clone to_owned default request service name fmt type_id);
        assert_eq!(
            client.into_(text.clone()).recv().await.unwrap(),
            Some(text.clone())
        );
        assert_eq!(
            client.responses(text.clone()).recv().await.unwrap(),
            Some(text.clone())
        );
        let mut texts = client.drop(());
        texts.send(text.clone()).await.unwrap();
        assert_eq!(texts.finish().await.unwrap().into_inner(), text);
        let (mut texts, mut echoes) = client.as_ref(());
        texts.send(text.clone()).await.unwrap();
        assert_eq!(echoes.recv().await.unwrap(), Some(text));
    }

    #[test]
    fn methods_that_differ_only_for_protobuf_are_told_apart() {
        use alike_service::*;
        assert_eq!(GET_IT.path(), "/methods.Alike/GetIt");
        assert_eq!(GET_IT_.path(), "/methods.Alike/getIt");
        assert_eq!(GET_IT__.path(), "/methods.Alike/get_it");
        assert_eq!(NEW_.path(), "/methods.Alike/new");
        assert_eq!(NEW__.path(), "/methods.Alike/new_");
    }
}

mod same_name {
    use super::golden::same_name;
    use super::*;

    struct Served;

    impl same_name::EchoService for Served {
        echo!(same_name::Echo: echo);
    }
    impl same_name::T for Served {
        echo!(same_name::Echo: get);
    }
    impl same_name::Clone for Served {
        echo!(same_name::Echo: get);
    }

    #[tokio::test]
    async fn a_service_called_as_a_message_answers() {
        let echo = same_name::Echo {
            text: "x".to_owned(),
        };
        let channel = channel(same_name::EchoServiceServer::new(Served));
        let client = same_name::EchoServiceClient::new(channel);
        assert_eq!(client.echo(echo.clone()).await.unwrap().into_inner(), echo);
        assert_eq!(same_name::EchoServiceServer::NAME, "same_name.Echo");
        let t = super::channel(same_name::TServer::new(Served));
        let t = same_name::TClient::new(t);
        assert_eq!(t.get(echo.clone()).await.unwrap().into_inner(), echo);
        let clone = super::channel(same_name::CloneServer::new(Served));
        let clone = same_name::CloneClient::new(clone);
        assert_eq!(clone.get(echo.clone()).await.unwrap().into_inner(), echo);
    }
}

mod packages {
    use super::golden::{empty_package, imports};
    use super::*;

    struct Served;

    impl empty_package::Plain for Served {
        async fn get(
            &self,
            request: Request<empty_package::Bare>,
        ) -> Result<Response<empty_package::bare::Inner>, Status> {
            let text = request.into_inner().text;
            Ok(Response::new(empty_package::bare::Inner { text }))
        }
    }

    impl empty_package::Nothing for Served {}

    impl imports::store::Store for Served {
        async fn get(
            &self,
            request: Request<imports::common::Id>,
        ) -> Result<Response<imports::store::Item>, Status> {
            let id = Some(request.into_inner());
            Ok(Response::new(imports::store::Item { id }))
        }
        async fn dig(
            &self,
            _: Request<imports::store::deep::down::Hole>,
            responses: &mut SendStream<imports::store::deep::down::hole::Stone>,
        ) -> Result<(), Status> {
            let stone = imports::store::deep::down::hole::Stone { weight: 3 };
            responses.send(stone).await
        }
    }

    #[tokio::test]
    async fn a_service_without_a_package_answers() {
        let client =
            empty_package::PlainClient::new(channel(empty_package::PlainServer::new(Served)));
        let text = "x".to_owned();
        let inner = client.get(empty_package::Bare { text }).await.unwrap();
        assert_eq!(inner.into_inner().text, "x");
        assert_eq!(empty_package::plain_service::GET.path(), "/Plain/Get");
    }

    #[tokio::test]
    async fn a_service_without_methods_is_served() {
        let channel = channel(empty_package::NothingServer::new(Served));
        let client = empty_package::PlainClient::new(channel);
        let status = client
            .get(empty_package::Bare::default())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    }

    #[tokio::test]
    async fn types_of_other_packages_are_sent() {
        let client =
            imports::store::StoreClient::new(channel(imports::store::StoreServer::new(Served)));
        let id = imports::common::Id { id: "7".to_owned() };
        let item = client.get(id.clone()).await.unwrap().into_inner();
        assert_eq!(item.id, Some(id));
        let mut stones = client.dig(imports::store::deep::down::Hole {});
        assert_eq!(stones.recv().await.unwrap().unwrap().weight, 3);
    }
}

mod well_known {
    use super::golden::well_known::*;
    use super::*;
    use rpc_core::prost_types::{Any, Duration, Struct, Timestamp};

    struct Served;

    impl Clock for Served {
        async fn now(&self, _: Request<()>) -> Result<Response<Timestamp>, Status> {
            Ok(Response::new(Timestamp {
                seconds: 5,
                nanos: 6,
            }))
        }
        async fn tick(
            &self,
            _: Request<Duration>,
            responses: &mut SendStream<()>,
        ) -> Result<(), Status> {
            responses.send(()).await
        }
        async fn pack(&self, _: Request<RecvStream<Any>>) -> Result<Response<Struct>, Status> {
            Ok(Response::new(Struct::default()))
        }
        async fn not(&self, request: Request<bool>) -> Result<Response<bool>, Status> {
            Ok(Response::new(!request.into_inner()))
        }
        async fn text(&self, request: Request<String>) -> Result<Response<Vec<u8>>, Status> {
            Ok(Response::new(request.into_inner().into_bytes()))
        }
        async fn number(&self, request: Request<i64>) -> Result<Response<f64>, Status> {
            Ok(Response::new(request.into_inner() as f64))
        }
        async fn count(
            &self,
            _: Request<RecvStream<u32>>,
            responses: &mut SendStream<f32>,
        ) -> Result<(), Status> {
            responses.send(0.5).await
        }
    }

    #[tokio::test]
    async fn wrappers_and_empty_are_types_of_rust() {
        let client = ClockClient::new(channel(ClockServer::new(Served)));
        assert_eq!(client.now(()).await.unwrap().into_inner().seconds, 5);
        assert_eq!(
            client.tick(Duration::default()).recv().await.unwrap(),
            Some(())
        );
        assert!(client.not(false).await.unwrap().into_inner());
        let text = client.text("x".to_owned()).await.unwrap().into_inner();
        assert_eq!(text, b"x");
        assert_eq!(client.number(-2).await.unwrap().into_inner(), -2.0);
        let (_requests, mut halves) = client.count(());
        assert_eq!(halves.recv().await.unwrap(), Some(0.5));
    }
}

mod options {
    use super::golden::{bytes, client_only, deprecated, extern_path, idempotency, server_only};
    use super::*;

    /// Serving what is deprecated is no offence; only calling it is.
    #[tokio::test]
    async fn deprecated_methods_are_served() {
        use deprecated::{Half, HalfClient, HalfServer, Old, Text};
        struct Served;
        impl Half for Served {
            echo!(Text: old current);
            async fn old_chat(
                &self,
                request: Request<RecvStream<Old>>,
                responses: &mut SendStream<Old>,
            ) -> Result<(), Status> {
                mirror(request, responses).await
            }
        }
        let client = HalfClient::new(channel(HalfServer::new(Served)));
        assert!(client.current(Text::default()).await.is_ok());
        #[expect(deprecated)]
        let old = client.old(Text::default());
        assert!(old.await.is_ok());
        #[expect(deprecated)]
        let _gone = deprecated::GoneClient::new(channel(HalfServer::new(Served)));
    }

    #[test]
    fn idempotency_is_that_of_the_file() {
        use idempotency::levels_service::*;
        assert_eq!(READ.idempotency(), Idempotency::NoSideEffects);
        assert_eq!(PUT.idempotency(), Idempotency::Idempotent);
        assert_eq!(UNKNOWN.idempotency(), Idempotency::Unknown);
        assert_eq!(UNSAID.idempotency(), Idempotency::Unknown);
        assert_eq!(LIST.idempotency(), Idempotency::NoSideEffects);
    }

    #[tokio::test]
    async fn a_side_alone_meets_the_other() {
        struct Served;
        impl server_only::Half for Served {
            echo!(server_only::Text: get);
            async fn chat(
                &self,
                request: Request<RecvStream<server_only::Text>>,
                responses: &mut SendStream<server_only::Text>,
            ) -> Result<(), Status> {
                mirror(request, responses).await
            }
        }
        let channel = channel(server_only::HalfServer::new(Served));
        let client = client_only::HalfClient::new(channel.clone());
        // They are of two packages, so that the server has not what the client calls.
        let status = client.get(client_only::Text::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        let text = server_only::Text {
            text: "x".to_owned(),
        };
        let answer = channel
            .unary(&server_only::half_service::GET, Request::new(text.clone()))
            .await;
        assert_eq!(answer.unwrap().into_inner(), text);
    }

    #[tokio::test]
    async fn types_from_elsewhere_are_sent() {
        use extern_path::{Extern, ExternClient, ExternServer, Holder};
        use rpc_core::prost_types::Any;
        struct Served;
        impl Extern for Served {
            async fn get(
                &self,
                request: Request<golden::imports::common::Id>,
            ) -> Result<Response<golden::Mine>, Status> {
                let said = request.into_inner().id;
                Ok(Response::new(golden::Mine { said }))
            }
            async fn chat(
                &self,
                _: Request<RecvStream<Any>>,
                responses: &mut SendStream<Holder>,
            ) -> Result<(), Status> {
                responses.send(Holder::default()).await
            }
        }
        let client = ExternClient::new(channel(ExternServer::new(Served)));
        let id = "mine".to_owned();
        let mine = client
            .get(golden::imports::common::Id { id })
            .await
            .unwrap();
        assert_eq!(mine.into_inner().said, "mine");
    }

    #[tokio::test]
    async fn proto2_has_defaults_and_groups() {
        use super::golden::proto2::{Old, Two, TwoClient, TwoServer, old::Part};
        struct Served;
        impl Two for Served {
            echo!(Old: get);
        }
        let client = TwoClient::new(channel(TwoServer::new(Served)));
        let old = Old {
            name: "x".to_owned(),
            part: Some(Part { weight: Some(5) }),
            ..Old::default()
        };
        assert_eq!((old.size(), Part::default().weight()), (7, 3));
        assert_eq!(client.get(old.clone()).await.unwrap().into_inner(), old);
    }

    #[test]
    fn bytes_and_attributes_are_where_they_were_asked_for() {
        let shared = ::bytes::Bytes::from_static(b"x");
        let blob = bytes::Blob {
            shared,
            owned: Vec::new(),
        };
        // `Ord` is derived.
        assert_eq!(blob.clone().max(bytes::Blob::default()), blob);
    }
}
