//! Sockets that are slow, too many, or gone before they are accepted.

use std::io;
use std::time::{Duration, Instant};

use rpc_core::{Channel, Request};
use rpc_http2::frame::{PREFACE, flag, kind};
use rpc_testkit::promises::Promises;
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::raw::{RawClient, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::held::Scene;
use crate::vectors::ECHO;
use crate::victim::Victim;
use crate::{GROWTH, Outcome, Size};

/// How long a slow socket may be held.
const DROPPED: Duration = Duration::from_secs(15);
/// How often it says something.
const PACE: Duration = Duration::from_secs(1);
/// What one may cost, in KiB.
const EACH: u64 = 32;

/// S13: what a connection is slow at.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Silence,
    Preface,
    Settings,
    HeaderBlock,
    Body,
}

impl Stage {
    const ALL: [Self; 5] = [
        Self::Silence,
        Self::Preface,
        Self::Settings,
        Self::HeaderBlock,
        Self::Body,
    ];

    /// What is sent at once, and what comes octet by octet.
    fn octets(self) -> (Vec<u8>, Vec<u8>) {
        let hello = [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, &[])].concat();
        // A field name of 100 octets, in CONTINUATION frames of one octet each.
        let continuation = frame(kind::CONTINUATION, 0, 1, b"a");
        match self {
            Self::Silence => (Vec::new(), Vec::new()),
            Self::Preface => (Vec::new(), hello),
            Self::Settings => (PREFACE.to_vec(), frame(kind::SETTINGS, 0, 0, &[0; 60])),
            Self::HeaderBlock => {
                let head = frame(kind::HEADERS, 0, 1, &[0x00, 100]);
                ([&hello[..], &head].concat(), continuation.repeat(10))
            }
            Self::Body => {
                let mut fields = b"\x83\x86\x04\x14/testkit.v1.Test/Echo".to_vec();
                // A deadline of 3 s.
                fields.extend(b"\x0f\x10\x10application/grpc\x00\x0cgrpc-timeout\x023S");
                let head = frame(kind::HEADERS, flag::END_HEADERS, 1, &fields);
                let data = frame(kind::DATA, 0, 1, &[0, 0, 0, 1, 0]);
                (
                    [&hello[..], &head, &data].concat(),
                    frame(kind::DATA, 0, 1, b"a").repeat(10),
                )
            }
        }
    }

    /// How long it was held; nothing when that was too long. A slow body ends with its call.
    async fn run(self, address: String) -> io::Result<Option<Duration>> {
        let mut socket = TcpStream::connect(address).await?;
        let start = Instant::now();
        let (at_once, slowly) = self.octets();
        socket.write_all(&at_once).await?;
        let (mut read, mut write) = socket.split();
        let ended = async {
            let mut input = Vec::new();
            loop {
                match read.read_buf(&mut input).await {
                    Ok(0) | Err(_) => return,
                    // The answer: HEADERS on stream 1 with END_STREAM and END_HEADERS.
                    Ok(_) if matches!(self, Self::Body) => {
                        let answer = [
                            kind::HEADERS,
                            flag::END_HEADERS | flag::END_STREAM,
                            0,
                            0,
                            0,
                            1,
                        ];
                        if input.windows(6).any(|six| six == answer) {
                            return;
                        }
                    }
                    Ok(_) => {}
                }
            }
        };
        let talking = async {
            for octet in slowly {
                tokio::time::sleep(PACE).await;
                if write.write_all(&[octet]).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let over = tokio::time::timeout(DROPPED, async {
            tokio::select! {
                () = ended => {}
                () = talking => {}
            }
        });
        Ok(over.await.is_ok().then(|| start.elapsed()))
    }
}

/// S13: sockets that are slow at every stage.
pub(crate) async fn slow_sockets(size: Size, promises: &mut Promises) -> Outcome<()> {
    let each: u32 = size.of(100, 1_900);
    let scene = Scene::begin(&[]).await?;
    let mut tasks = JoinSet::new();
    for _ in 0..each {
        for stage in Stage::ALL {
            let address = scene.victim.address.clone();
            tasks.spawn(async move { (stage, stage.run(address).await) });
        }
    }
    let patient = tokio::spawn(patient(scene.victim.address.clone()));
    let memory = scene.victim.memory()?;
    let (mut late, mut longest) = (0, Duration::ZERO);
    let mut most = memory;
    while let Some(task) = tasks.join_next().await {
        most = most.max(scene.victim.memory()?);
        match task? {
            (_, Ok(Some(took))) => longest = longest.max(took),
            (stage, other) => {
                late += 1;
                if late < 5 {
                    println!("{stage:?}: {other:?}");
                }
            }
        }
    }
    let patient = patient.await??;
    let found = scene.end((), "S13", promises).await?;
    let count = u64::from(each) * Stage::ALL.len() as u64;
    promises.keep(
        late == 0 && patient && found.is_within(EACH * count + GROWTH),
        format!(
            "S13 {count} sockets that are slow at 5 stages: {late} held longer than {DROPPED:?}, the others at most {longest:.1?}; one with 0.5 s a record {}; {}",
            if patient { "was served" } else { "was NOT served" },
            found.text(EACH * count + GROWTH)
        ),
    );
    Ok(())
}

/// S13's twin: a client that needs half a second for each record.
async fn patient(address: String) -> io::Result<bool> {
    let pause = || tokio::time::sleep(Duration::from_millis(500));
    let mut socket = TcpStream::connect(&address).await?;
    for part in PREFACE.chunks(8) {
        socket.write_all(part).await?;
        pause().await;
    }
    let (mut other, _) = RawClient::connect(&address, &[]).await?;
    let call = other.call(ECHO, &[]).1;
    for part in [
        &frame(kind::SETTINGS, 0, 0, &[])[..],
        &call[..9],
        &call[9..40],
        &call[40..],
    ] {
        socket.write_all(part).await?;
        pause().await;
    }
    let mut input = Vec::new();
    let answered = async {
        let end = [
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            0,
            0,
            0,
            1,
        ];
        while !input.windows(6).any(|six| six == end) {
            if socket.read_buf(&mut input).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    };
    tokio::time::timeout(Duration::from_secs(2), answered)
        .await
        .unwrap_or(Ok(false))
}

/// S15: a server that has no descriptors left goes on, and takes the next connection once it has.
pub(crate) async fn no_descriptors(size: Size, promises: &mut Promises) -> Outcome<()> {
    let hold = size.of(Duration::from_secs(2), Duration::from_secs(60));
    let scene = Scene::of(Victim::with_descriptors(64)?).await?;
    let mut hogs = Vec::new();
    for _ in 0..100 {
        hogs.push(TcpStream::connect(&scene.victim.address).await?);
    }
    let busy = scene.victim.cpu()?;
    tokio::time::sleep(hold).await;
    let busy = scene.victim.cpu()?.saturating_sub(busy);
    drop(hogs);
    let start = Instant::now();
    let channel = Channel::connect(&format!("http://{}", scene.victim.address)).await?;
    let request = Request::new(Message::default()).with_timeout(Duration::from_secs(5));
    TestClient::new(channel).echo(request).await?;
    let took = start.elapsed();
    let found = scene.end((), "S15", promises).await?;
    promises.keep(
        // The bystander's 200 calls a second are in it.
        busy < hold / 10 && took < Duration::from_secs(1) && found.is_within(GROWTH),
        format!(
            "S15 no descriptor left for {hold:?}: {busy:.0?} CPU, a new call {took:.0?} after the release; {}",
            found.text(GROWTH)
        ),
    );
    Ok(())
}

/// S15: connections that are reset before they are accepted, or speak something else.
pub(crate) async fn reset_on_accept(promises: &mut Promises) -> Outcome<()> {
    // A TLS alert, garbage, and nothing.
    const HELLOS: [&[u8]; 3] = [
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x00\xff\x00\xff\x00\xff",
        b"",
    ];
    let scene = Scene::begin(&[]).await?;
    for round in 0..1000 {
        let mut socket = TcpStream::connect(&scene.victim.address).await?;
        socket.write_all(HELLOS[round % HELLOS.len()]).await?;
        socket.set_zero_linger()?;
    }
    let start = Instant::now();
    let channel = Channel::connect(&format!("http://{}", scene.victim.address)).await?;
    TestClient::new(channel).echo(Message::default()).await?;
    let took = start.elapsed();
    let found = scene.end((), "S15", promises).await?;
    promises.keep(
        took < Duration::from_secs(1) && found.is_within(GROWTH),
        format!(
            "S15 1,000 connections that are reset at once: a new call took {took:.0?}; {}",
            found.text(GROWTH)
        ),
    );
    Ok(())
}
