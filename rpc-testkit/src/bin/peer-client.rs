//! Calls a foreign server of the test service; prints a line per case.
use std::time::Duration;

use rpc_core::health::{CHECK, HealthCheckRequest, ServingStatus};
use rpc_core::{Channel, Code, Encoding, Request, Status};
use rpc_testkit::proto::{FailRequest, Message, StreamRequest, TestClient};

type Outcome = Result<(), String>;

fn message(number: i64) -> Message {
    Message {
        number,
        ..Message::default()
    }
}

fn ensure(holds: bool, what: impl std::fmt::Debug) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(format!("{what:?}"))
    }
}

fn text(status: Status) -> String {
    status.to_string()
}

async fn unary(client: &TestClient) -> Outcome {
    let response = client.echo(message(7)).await.map_err(text)?.into_inner();
    ensure(response == message(7), response)?;
    let large = Message {
        body: vec![5; 1 << 20],
        ..Message::default()
    };
    let response = client.echo(large.clone()).await.map_err(text)?.into_inner();
    ensure(response == large, response.body.len())?;
    let response = client
        .echo(Message::default())
        .await
        .map_err(text)?
        .into_inner();
    ensure(response == Message::default(), response)
}

async fn streams(client: &TestClient) -> Outcome {
    let mut stream = client.server_stream(StreamRequest {
        count: 100,
        size: 1000,
        fail_after: 0,
    });
    let mut received = 0;
    while let Some(message) = stream.recv().await.map_err(text)? {
        ensure(message.number == received, &message)?;
        received += 1;
    }
    ensure(received == 100, received)?;
    let mut call = client.client_stream(());
    for number in 1..=100 {
        call.send(message(number)).await.map_err(text)?;
    }
    let sum = call.finish().await.map_err(text)?.into_inner().number;
    ensure(sum == 5050, sum)?;
    let (mut requests, mut responses) = client.chat(());
    for number in 0..100 {
        requests.send(message(number)).await.map_err(text)?;
        let answer = responses.recv().await.map_err(text)?;
        ensure(answer == Some(message(number)), answer)?;
    }
    requests.finish().await.map_err(text)?;
    ensure(responses.recv().await.map_err(text)?.is_none(), "more")
}

async fn errors(client: &TestClient) -> Outcome {
    for code in 1..=16 {
        let request = FailRequest {
            code,
            message: "grüße % \n☺".to_owned(),
            details: vec![1, 2, 255],
        };
        let Err(status) = client.fail(request).await else {
            return Err("succeeded".to_owned());
        };
        ensure(
            status.code() as i32 == code && status.message() == "grüße % \n☺",
            &status,
        )?;
        ensure(status.metadata().get("x-fail") == Some("yes"), &status)?;
    }
    Ok(())
}

async fn metadata(client: &TestClient) -> Outcome {
    let mut request = Request::new(message(0));
    let map = request.metadata_mut();
    map.insert("x-a", "1")
        .and_then(|()| map.insert_bin("x-b-bin", [0, 255]))
        .map_err(|error| error.to_string())?;
    let response = client.metadata_echo(request).await.map_err(text)?;
    for map in [response.metadata(), response.trailers()] {
        ensure(
            map.get("x-a") == Some("1") && map.get_bin("x-b-bin") == Some(&[0, 255]),
            map,
        )?;
    }
    Ok(())
}

async fn deadline_and_cancel(client: &TestClient) -> Outcome {
    let request = Request::new(message(0)).with_timeout(Duration::from_millis(100));
    let Err(status) = client.hang(request).await else {
        return Err("answered".to_owned());
    };
    ensure(status.code() == Code::DeadlineExceeded, &status)?;
    let dropped = tokio::time::timeout(Duration::from_millis(100), client.hang(message(0))).await;
    ensure(dropped.is_err(), "answered")?;
    let both_dropped = async {
        while client
            .dropped(message(0))
            .await
            .map_err(text)?
            .into_inner()
            .dropped
            < 2
        {}
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), both_dropped)
        .await
        .map_err(|_| "the handlers were not cancelled".to_owned())?
}

async fn thousand(client: &TestClient) -> Outcome {
    let calls: Vec<_> = (0..1000)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.echo(message(number)).await })
        })
        .collect();
    for (number, call) in (0..).zip(calls) {
        let response = call
            .await
            .map_err(|error| error.to_string())?
            .map_err(text)?
            .into_inner();
        ensure(response.number == number, response)?;
    }
    Ok(())
}

async fn health(channel: &Channel) -> Outcome {
    let response = channel
        .unary(&CHECK, Request::new(HealthCheckRequest::default()))
        .await
        .map_err(text)?
        .into_inner();
    ensure(response.status() == ServingStatus::Serving, response)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, rest @ ..] = arguments.as_slice() else {
        return Err("peer-client TARGET [ROOT.pem]".into());
    };
    let mut builder = Channel::builder();
    if let [root] = rest {
        builder =
            builder.tls(rpc_core::ClientTls::from_root_file(root)?.with_server_name("localhost"));
    } else {
        builder = builder.compress(Encoding::Gzip);
    }
    let channel = builder.connect(target).await?;
    let client = TestClient::new(channel.clone());
    let outcomes = [
        ("unary, 1 MiB, empty", unary(&client).await),
        ("streams", streams(&client).await),
        ("error codes", errors(&client).await),
        ("metadata", metadata(&client).await),
        (
            "deadline and cancellation",
            deadline_and_cancel(&client).await,
        ),
        ("1,000 concurrent calls", thousand(&client).await),
        ("health", health(&channel).await),
    ];
    let mut failed = 0;
    for (case, outcome) in &outcomes {
        match outcome {
            Ok(()) => println!("ok our client: {case}"),
            Err(why) => {
                failed += 1;
                println!("FAILED our client: {case}: {why}");
            }
        }
    }
    if failed > 0 {
        return Err(format!("{failed} cases failed").into());
    }
    Ok(())
}
