//! The load: independent tasks that call without a pause.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::hold::{self, Open};
use crate::meter::percentile;
use crate::{Client, Error, Meter, Settings};

/// What was measured in one window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Window {
    /// Calls, or messages where a stream is the workload.
    pub count: u64,
    /// How long the window was.
    pub seconds: f64,
    /// Half of them took at most this.
    pub p50_us: f64,
    /// 99 of 100 took at most this.
    pub p99_us: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Workload {
    Unary,
    UnaryWait,
    ServerStream(u32),
    PingPong,
}

/// What the workloads are called.
pub(crate) const NAMES: [&str; 5] = [
    "unary-100",
    "unary-100-wait",
    "server-stream-100",
    "server-stream-1m",
    "ping-pong",
];

impl FromStr for Workload {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Ok(match name {
            // Where the length of the body is a setting, the name does not promise one.
            "unary-100" | "unary" => Self::Unary,
            "unary-100-wait" => Self::UnaryWait,
            "server-stream-100" => Self::ServerStream(100),
            "server-stream-1m" => Self::ServerStream(1 << 20),
            "ping-pong" => Self::PingPong,
            _ => return Err(format!("there is no workload {name:?}").into()),
        })
    }
}

/// Connects, and starts `in_flight` tasks on each connection.
pub(crate) async fn start<C: Client>(
    address: SocketAddr,
    workload: Workload,
    connections: usize,
    in_flight: usize,
    settings: Settings,
) -> Result<Vec<Meter>, Error> {
    let mut meters = Vec::new();
    let mut clients = Vec::new();
    // All of them are connected before the first one calls; a busy server is slow to accept.
    for _ in 0..connections {
        let client = C::connect(address, &settings).await?;
        hold::occupy(&client, settings.idle_streams, Open::Idle).await?;
        hold::occupy(&client, settings.unread_streams, Open::Unread).await?;
        clients.push(client);
    }
    let tasks = if C::BATCHES { 1 } else { in_flight };
    let loads: Vec<Vec<C>> = if settings.rotate {
        let share = |task| clients.iter().cycle().skip(task).step_by(in_flight);
        let each = connections.div_ceil(in_flight);
        (0..in_flight)
            .map(|task| share(task).take(each).cloned().collect())
            .collect()
    } else {
        let of_one = |client: &C| vec![vec![client.clone()]; tasks];
        clients.iter().flat_map(of_one).collect()
    };
    for clients in loads {
        let meter = Meter::new()?;
        meters.push(meter.clone());
        let body = vec![7; settings.body];
        tokio::spawn(async move {
            let load = repeat(clients, in_flight, workload, body, &meter);
            if let Err(error) = load.await {
                eprintln!("{error}");
                std::process::exit(1);
            }
        });
    }
    Ok(meters)
}

async fn repeat<C: Client>(
    mut clients: Vec<C>,
    in_flight: usize,
    workload: Workload,
    body: Vec<u8>,
    meter: &Meter,
) -> Result<(), Error> {
    let expect = |length| {
        if length == body.len() {
            return Ok(());
        }
        Err(format!("an answer of {length} bytes came back"))
    };
    let client = clients.first_mut().ok_or("a load needs a connection")?;
    match workload {
        Workload::Unary if C::BATCHES => client.batch(in_flight, body, meter).await,
        Workload::Unary => loop {
            for client in &mut clients {
                let started = Instant::now();
                expect(client.unary(body.clone()).await?)?;
                meter.done(started);
            }
        },
        Workload::UnaryWait => loop {
            let started = Instant::now();
            expect(client.unary_wait(body.clone()).await?)?;
            meter.done(started);
        },
        Workload::ServerStream(size) => client.server_stream(size, meter).await,
        Workload::PingPong => client.ping_pong(body, meter).await,
    }
}

/// Measures a window for each line of the standard input, until it ends.
pub(crate) fn measure(meters: &[Meter]) -> Result<(), Error> {
    for line in std::io::stdin().lock().lines() {
        let length = Duration::try_from_secs_f64(line?.parse()?)?;
        for meter in meters {
            meter.take();
        }
        let started = Instant::now();
        std::thread::sleep(length);
        let seconds = started.elapsed().as_secs_f64();
        let mut all = hdrhistogram::Histogram::<u64>::new(2)?;
        for meter in meters {
            all.add(meter.take())?;
        }
        let microseconds = |percent| percentile(&all, percent).as_secs_f64() * 1e6;
        let window = Window {
            count: all.len(),
            seconds,
            p50_us: microseconds(50.0),
            p99_us: microseconds(99.0),
        };
        let mut out = std::io::stdout();
        writeln!(out, "{}", serde_json::to_string(&window)?)?;
        out.flush()?;
    }
    Ok(())
}
