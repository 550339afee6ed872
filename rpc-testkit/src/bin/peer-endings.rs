//! How calls end with a foreign server that knows the numbers of `tests/peers/grpc-go`; prints a line
//! per case.
use std::time::{Duration, Instant};

use rpc_core::{Channel, Code, Request, Status};
use rpc_testkit::proto::{FailRequest, Message, StreamRequest, TestClient};

type Outcome = Result<(), String>;

/// Never answers.
const HANG: i64 = -1;
/// Answers at once, whatever else comes.
const EARLY_OK: i64 = -2;
/// Fails at once, with metadata at both ends.
const EARLY_ERROR: i64 = -3;

fn message(number: i64) -> Message {
    Message {
        number,
        ..Message::default()
    }
}

fn stream_of(count: i64) -> StreamRequest {
    StreamRequest {
        count,
        ..StreamRequest::default()
    }
}

fn text(status: Status) -> String {
    status.to_string()
}

fn ensure(holds: bool, what: impl std::fmt::Debug) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(format!("{what:?}"))
    }
}

fn short<T>(value: T) -> Request<T> {
    Request::new(value).with_timeout(Duration::from_millis(50))
}

/// A call of each kind that is never answered.
async fn time_out(client: &TestClient, kind: usize) -> Result<(), Status> {
    match kind {
        0 => client.hang(short(message(0))).await.map(drop),
        1 => client
            .server_stream(short(stream_of(HANG)))
            .recv()
            .await
            .map(drop),
        2 => {
            let mut call = client.client_stream(short(()));
            call.send(message(HANG)).await?;
            call.finish().await.map(drop)
        }
        _ => {
            let (mut requests, mut responses) = client.chat(short(()));
            requests.send(message(HANG)).await?;
            responses.recv().await.map(drop)
        }
    }
}

/// The server sees the deadline too, and resets the stream at about the same time.
async fn deadlines(client: &TestClient) -> Outcome {
    let calls: Vec<_> = (0..400)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { time_out(&client, number % 4).await })
        })
        .collect();
    let mut wrong = Vec::new();
    for (number, call) in calls.into_iter().enumerate() {
        match call.await.map_err(|error| error.to_string())? {
            Err(status) if status.code() == Code::DeadlineExceeded => {}
            other => wrong.push((number % 4, other)),
        }
    }
    ensure(wrong.is_empty(), (wrong.len(), wrong.first()))
}

/// Sends until the call says that it has ended.
async fn early_answers(client: &TestClient) -> Outcome {
    let body = vec![7; 16 * 1024];
    let large = || Message {
        body: body.clone(),
        ..Message::default()
    };
    for sends in [1, 200] {
        let mut call = client.client_stream(());
        call.send(message(EARLY_OK)).await.map_err(text)?;
        for _ in 0..sends {
            if call.send(large()).await.is_err() {
                break;
            }
        }
        let answer = call.finish().await.map_err(text)?;
        ensure(answer.get_ref().number == 42, answer.get_ref())?;
        ensure(answer.metadata().get("x-head") == Some("early"), &answer)?;
        ensure(answer.trailers().get("x-trailer") == Some("early"), &answer)?;

        let mut call = client.client_stream(());
        call.send(message(EARLY_ERROR)).await.map_err(text)?;
        for _ in 0..sends {
            if call.send(large()).await.is_err() {
                break;
            }
        }
        let Err(status) = call.finish().await else {
            return Err("an early error is a success".to_owned());
        };
        early_error(&status)?;

        let (mut requests, mut responses) = client.chat(());
        requests.send(message(EARLY_OK)).await.map_err(text)?;
        for _ in 0..sends {
            if requests.send(large()).await.is_err() {
                break;
            }
        }
        let answer = responses.recv().await.map_err(text)?;
        ensure(answer == Some(message(42)), &answer)?;
        ensure(responses.recv().await.map_err(text)?.is_none(), "more")?;

        let (mut requests, mut responses) = client.chat(());
        requests.send(message(EARLY_ERROR)).await.map_err(text)?;
        for _ in 0..sends {
            if requests.send(large()).await.is_err() {
                break;
            }
        }
        let Err(status) = responses.recv().await else {
            return Err("an early error is a success".to_owned());
        };
        early_error(&status)?;
    }
    Ok(())
}

fn early_error(status: &Status) -> Outcome {
    ensure(
        status.code() == Code::FailedPrecondition && status.message() == "not now",
        status,
    )?;
    let metadata = status.metadata();
    ensure(metadata.get("x-trailer") == Some("early"), metadata)?;
    ensure(metadata.get_bin("x-details-bin") == Some(&[8, 9]), metadata)
}

async fn long_message(client: &TestClient) -> Outcome {
    let request = FailRequest {
        code: 10,
        message: "あ".repeat(1333),
        details: Vec::new(),
    };
    let Err(status) = client.fail(request).await else {
        return Err("succeeded".to_owned());
    };
    ensure(
        status.code() == Code::Aborted && status.message().starts_with("あああ"),
        &status,
    )
}

/// Given up without a deadline on the wire, at once and later; then the connection still works.
async fn give_ups(client: &TestClient) -> Outcome {
    for number in 0..1000 {
        let wait = Duration::from_millis(number % 3);
        if tokio::time::timeout(wait, client.hang(message(0)))
            .await
            .is_ok()
        {
            return Err("answered".to_owned());
        }
    }
    client.echo(message(1)).await.map(drop).map_err(text)
}

/// Calls one after the other on several tasks, for so long.
async fn steady(client: &TestClient, time: Duration) -> Outcome {
    let end = Instant::now() + time;
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut calls = 0_u64;
                while Instant::now() < end {
                    client.echo(message(1)).await.map_err(text)?;
                    calls += 1;
                }
                Ok::<_, String>(calls)
            })
        })
        .collect();
    let mut calls = 0;
    for task in tasks {
        calls += task.await.map_err(|error| error.to_string())??;
    }
    ensure(calls > 100, calls)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, rest @ ..] = arguments.as_slice() else {
        return Err("peer-endings TARGET [ROOT.pem | --steady SECONDS]".into());
    };
    let mut builder = Channel::builder();
    if let [root] = rest {
        builder =
            builder.tls(rpc_core::ClientTls::from_root_file(root)?.with_server_name("localhost"));
    }
    let client = TestClient::new(builder.connect(target).await?);
    let outcomes = if let [_, seconds] = rest {
        let time = Duration::from_secs(seconds.parse()?);
        vec![("calls without a pause", steady(&client, time).await)]
    } else {
        vec![
            ("400 deadlines of all kinds", deadlines(&client).await),
            ("early answers and errors", early_answers(&client).await),
            ("a long status message", long_message(&client).await),
            ("1,000 calls that are given up", give_ups(&client).await),
        ]
    };
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
