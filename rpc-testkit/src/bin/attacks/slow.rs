//! Sockets that are slow.

use std::io;
use std::time::{Duration, Instant};

use rpc_http2::frame::{PREFACE, flag, kind};
use rpc_testkit::promises::Promises;
use rpc_testkit::raw::{RawClient, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::acts::ECHO;
use crate::scene::{Found, Scene};
use crate::table::Row;
use crate::victim::Victim;
use crate::{Outcome, Size};

/// How long a slow socket may be held.
const DROPPED: Duration = Duration::from_secs(15);
/// How often it says something.
const PACE: Duration = Duration::from_secs(1);
/// The deadline of a slow body's call.
const BODY: Duration = Duration::from_secs(3);
/// What one may cost, in KiB.
const EACH: u64 = 32;
/// So many sockets are opened before the server has accepted them. A system may keep no more than 128
/// for it, and of a silent one that it did not keep the server never hears.
const AT_ONCE: usize = 32;

/// S13: what a connection is slow at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Silence,
    Preface,
    Settings,
    HeaderBlock,
    Body,
    NoHello,
    Hello,
    LatePreface,
}

impl Stage {
    const PLAIN: [Self; 5] = [
        Self::Silence,
        Self::Preface,
        Self::Settings,
        Self::HeaderBlock,
        Self::Body,
    ];
    const TLS: [Self; 2] = [Self::NoHello, Self::Hello];

    /// Whether it was held no longer than it may: a body has a deadline of its own.
    fn is_right(self, took: Duration) -> bool {
        match self {
            Self::Body => took > BODY.mul_f32(0.9) && took < BODY + PACE,
            _ => took < DROPPED,
        }
    }

    /// What is sent at once, and what comes octet by octet.
    fn octets(self) -> (Vec<u8>, Vec<u8>) {
        let hello = [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, &[])].concat();
        // A field name of 100 octets, in CONTINUATION frames of one octet each.
        let continuation = frame(kind::CONTINUATION, 0, 1, b"a");
        match self {
            Self::Silence | Self::NoHello => (Vec::new(), Vec::new()),
            // Three octets at once, the fourth after 9 s.
            Self::LatePreface => (PREFACE[..3].to_vec(), PREFACE[3..4].to_vec()),
            // The beginning of a ClientHello of 512 octets.
            Self::Hello => {
                let start = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
                (Vec::new(), [&start[..], &[7; 32]].concat())
            }
            Self::Preface => (Vec::new(), hello),
            Self::Settings => (PREFACE.to_vec(), frame(kind::SETTINGS, 0, 0, &[0; 60])),
            Self::HeaderBlock => {
                let head = frame(kind::HEADERS, 0, 1, &[0x00, 100]);
                ([&hello[..], &head].concat(), continuation.repeat(10))
            }
            Self::Body => {
                let mut fields = b"\x83\x86\x04\x15/testkit.v1.Test/Echo".to_vec();
                // The deadline is BODY.
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
    async fn run(self, mut socket: TcpStream) -> io::Result<Option<Duration>> {
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
        let pace = match self {
            Self::LatePreface => PACE * 9,
            _ => PACE,
        };
        let talking = async {
            for octet in slowly {
                tokio::time::sleep(pace).await;
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
    let plain = Scene::begin(&[]).await?;
    let tls = Scene::of(Victim::with_tls()?).await?;
    // 10,000 in all, on two servers.
    let (each, handshakes) = size.of((100, 100), (1_800, 500));
    let off = Victim::start(&["header_time", "handshake_time"])?;
    let (plainly, handshaking, off, late, patient) = tokio::join!(
        slow(&plain.victim, &Stage::PLAIN, each),
        slow(&tls.victim, &Stage::TLS, handshakes),
        slow(&off, &Stage::PLAIN[..4], 1),
        slow(&plain.victim, &[Stage::LatePreface], 1),
        patient(&plain.victim.address),
    );
    let (plainly, handshaking, off) = (plainly?, handshaking?, off?);
    let (late, patient) = (late?, patient?);
    let twin = if patient { "served" } else { "NOT served" };
    let checks = [
        (patient, "its honest twin was not served"),
        (
            late.late.is_empty(),
            "a preface whose fourth octet comes after 9 s is held for too long",
        ),
        (
            off.longest.is_none(),
            "sockets are dropped without the limits too",
        ),
    ];
    let found = plain.end_or_again(async |victim: &Victim| {
        slow(victim, &Stage::PLAIN, each).await?;
        Ok(())
    });
    let found = found.await?;
    let held = off.late.len();
    let off = match off.longest {
        Some(dropped) => format!("{dropped:.1?} dropped"),
        None => format!("{held} held longer"),
    };
    plainly.print(
        "S13a",
        "slow at 5 stages",
        &found,
        twin,
        &off,
        &checks,
        promises,
    );
    // Its bystander is the twin; how long a handshake may take cannot be turned off.
    let found = tls.end(()).await?;
    handshaking.print("S13b", "slow at TLS", &found, "-", "-", &[], promises);
    Ok(())
}

/// What became of sockets that are slow.
#[derive(Default)]
struct Dropped {
    count: u64,
    /// Those that were held too long, and why.
    late: Vec<String>,
    longest: Option<(Duration, Stage)>,
}

/// Opens so many sockets at each stage.
async fn slow(victim: &Victim, stages: &[Stage], each: u32) -> Outcome<Dropped> {
    let mut tasks = JoinSet::new();
    let before = victim.descriptors()?;
    for _ in 0..each {
        for stage in stages.iter().copied() {
            let socket = TcpStream::connect(&victim.address).await?;
            tasks.spawn(async move { (stage, stage.run(socket).await) });
            if tasks.len() % AT_ONCE == 0 {
                accepted(victim, before + tasks.len()).await?;
            }
        }
    }
    let mut dropped = Dropped::default();
    while let Some(task) = tasks.join_next().await {
        dropped.count += 1;
        match task? {
            (stage, Ok(Some(took))) if stage.is_right(took) => {
                dropped.longest = dropped.longest.max(Some((took, stage)));
            }
            (stage, other) => dropped.late.push(format!("{stage:?}: {other:?}")),
        }
    }
    Ok(dropped)
}

/// Waits until the server has so many descriptors, or so many are gone already.
async fn accepted(victim: &Victim, descriptors: usize) -> io::Result<()> {
    let accepting = async {
        while victim.descriptors()? < descriptors {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    tokio::time::timeout(PACE, accepting)
        .await
        .unwrap_or(Ok(()))
}

impl Dropped {
    #[allow(clippy::too_many_arguments)]
    fn print(
        &self,
        id: &str,
        name: &str,
        found: &Found,
        twin: &str,
        off: &str,
        checks: &[(bool, &str)],
        promises: &mut Promises,
    ) {
        let row = Row {
            id,
            name,
            ended: self
                .longest
                .map_or_else(|| "held".to_owned(), |(_, stage)| format!("{stage:?}")),
            count: Some(self.count),
            most: None,
            took: self.longest.map_or(Duration::ZERO, |(took, _)| took),
            within: Some(DROPPED),
            growth: Some(EACH * self.count),
            handlers: 0,
            twin: twin.to_owned(),
            off: off.to_owned(),
            known: &[],
        };
        let late = self.late.first().cloned().unwrap_or_default();
        let late = [(self.late.is_empty(), &*late)];
        row.print(found, &[checks, &late].concat(), promises);
    }
}

/// S13's twin: a client that needs half a second for each record.
async fn patient(address: &str) -> io::Result<bool> {
    let pause = || tokio::time::sleep(Duration::from_millis(500));
    let mut socket = TcpStream::connect(address).await?;
    for part in PREFACE.chunks(8) {
        socket.write_all(part).await?;
        pause().await;
    }
    let (mut other, _) = RawClient::connect(address, &[]).await?;
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
