//! A registry, three servers and a load by name, while machines die: all of it in about 20 s.
//!
//! Every process is a real one. One server is killed and started again, all three are restarted one
//! by one, the registry is killed and brought back. The load goes on at its pace meanwhile, and the
//! summary says what its calls noticed. Exits 1 when it was more than was promised. What ran out of time
//! while the machine stood still is counted apart.

mod table;
mod tally;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rpc_testkit::Ticker;
use rpc_testkit::fleet::Fleet;
use rpc_testkit::load::{Kind, Load, Stop};
use rpc_testkit::promises::Promises;
use tokio::sync::mpsc;

use table::Table;
use tally::Tally;

/// Calls a second.
const RATE: u32 = 1_200;
/// What a call may take from its time on the schedule.
const TIMEOUT: Duration = Duration::from_millis(500);
/// In turn: calls that may be repeated, calls that must not, and streams.
const MIX: [Kind; 12] = {
    use Kind::{Follow, Look, Place};
    [
        Look, Place, Look, Look, Place, Look, Follow, Look, Place, Look, Place, Look,
    ]
};

/// What happens to the machines.
enum Event {
    Said(String),
    /// A server was killed; from before the signal to when it was gone.
    Killed(Instant, Instant),
}

fn main() -> ExitCode {
    rpc_testkit::promises::main(quickstart)
}

async fn quickstart() -> Result<Promises, Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let fleet = Fleet::start(directory.path(), 3).await?;
    let load = Load::new(&fleet.target(), RATE, TIMEOUT, &MIX)?;
    load.ready().await?;
    let (events, mut happened) = mpsc::unbounded_channel();
    let mut tally = Tally::new(Ticker::start());
    let mut table = Table::new();
    let mut redraw = tokio::time::interval(table.period());
    let (stop, mut records) = load.start();
    let play = tokio::spawn(play(fleet, stop, events));
    loop {
        tokio::select! {
            record = records.recv() => match record {
                Some(record) => tally.record(record),
                // The load was stopped, and its last call is over.
                None => break,
            },
            Some(event) = happened.recv() => match event {
                Event::Said(what) => table.say(&tally, &what)?,
                Event::Killed(from, to) => tally.killed(from, to),
            },
            _ = redraw.tick() => table.draw(&mut tally)?,
        }
    }
    play.await??;
    Ok(tally.judge())
}

/// What happens to the machines while the load goes on; it stops with the end of this.
async fn play(
    mut fleet: Fleet,
    _load: Stop,
    events: mpsc::UnboundedSender<Event>,
) -> std::io::Result<Fleet> {
    let pause = |seconds| tokio::time::sleep(Duration::from_secs_f32(seconds));
    let tell = |event| {
        // Without a listener the play is over anyway.
        let _ = events.send(event);
    };
    let say = |what: String| tell(Event::Said(what));
    say(format!(
        "the registry is {}, {RATE} calls/s to 3 servers",
        fleet.registry.address()
    ));
    pause(3.0).await;

    let from = Instant::now();
    fleet.servers[0].kill().await?;
    tell(Event::Killed(from, Instant::now()));
    say(format!(
        "{} killed with SIGKILL",
        fleet.servers[0].address()
    ));
    pause(2.0).await;
    fleet.servers[0] = fleet.servers[0].again().await?;
    say(format!("{} started again", fleet.servers[0].address()));
    pause(2.0).await;

    for server in &mut fleet.servers {
        server.terminate().await?;
        say(format!("{} drained and ended", server.address()));
        *server = server.again().await?;
        say(format!("{} started again", server.address()));
        pause(1.0).await;
    }
    pause(1.0).await;

    fleet.registry.kill().await?;
    say("the registry killed with SIGKILL".to_owned());
    pause(3.0).await;
    fleet.registry = fleet.registry.again().await?;
    say("the registry started again".to_owned());
    pause(4.0).await;
    Ok(fleet)
}
