//! What this framework has to reach against tonic in the same run.

use crate::figures::{Medians, Row};

/// One side of one workload against tonic's.
struct Goal {
    workload: &'static str,
    connections: u32,
    in_flight: u32,
    /// Whose client called both, `own` if each its own.
    table: &'static str,
    what: &'static str,
    of: fn(&Medians) -> f64,
    bound: Bound,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

const fn goal(
    (workload, connections, in_flight): (&'static str, u32, u32),
    what: &'static str,
    of: fn(&Medians) -> f64,
    bound: Bound,
) -> Goal {
    Goal {
        workload,
        connections,
        in_flight,
        table: "own",
        what,
        of,
        bound,
    }
}

const RATE: fn(&Medians) -> f64 = |row| row.per_s;
const SERVER: fn(&Medians) -> f64 = |row| row.server_cpu_us;
const CLIENT: fn(&Medians) -> f64 = |row| row.client_cpu_us;

const UNARY: (&str, u32, u32) = ("unary-100", 1, 64);
const SINGLE: (&str, u32, u32) = ("unary-100", 1, 1);
const CHAT: (&str, u32, u32) = ("ping-pong", 1, 1);

const GOALS: [Goal; 13] = [
    goal(UNARY, "server CPU", SERVER, AtMost(1.0 / 12.0)),
    goal(UNARY, "client CPU", CLIENT, AtMost(1.0 / 9.0)),
    goal(("unary-100-wait", 1, 64), "server CPU", SERVER, AtMost(0.2)),
    goal(("unary-100", 8, 64), "calls/s", RATE, AtLeast(9.0)),
    Goal {
        table: "tonic",
        ..goal(UNARY, "server CPU", SERVER, AtMost(0.25))
    },
    goal(SINGLE, "calls/s", RATE, AtLeast(1.8)),
    goal(SINGLE, "server CPU", SERVER, AtMost(0.5)),
    goal(SINGLE, "client CPU", CLIENT, AtMost(0.5)),
    goal(
        ("server-stream-100", 1, 1),
        "messages/s",
        RATE,
        AtLeast(1.3),
    ),
    goal(("server-stream-1m", 1, 1), "messages/s", RATE, AtLeast(1.4)),
    goal(CHAT, "messages/s", RATE, AtLeast(1.2)),
    goal(CHAT, "server CPU", SERVER, AtMost(0.5)),
    goal(CHAT, "client CPU", CLIENT, AtMost(0.5)),
];

/// Writes of the server for a unary call of which 64 are in flight.
const WRITES: f64 = 0.05;

/// Prints what came of the goals that were measured; how many are not reached.
pub(crate) fn check(rows: &[Row]) -> usize {
    let mut broken = 0;
    let mut say = |kept: bool, text: String| {
        println!("{} {text}", if kept { "kept  " } else { "BROKEN" });
        broken += usize::from(!kept);
    };
    for goal in &GOALS {
        let row = |stack: &str| {
            rows.iter().find(|row| {
                row.stack == stack
                    && row.table == goal.table
                    && row.workload == goal.workload
                    && (row.connections, row.in_flight) == (goal.connections, goal.in_flight)
            })
        };
        let medians = |stack| row(stack)?.medians;
        let (Some(ours), Some(tonic)) = (medians("ours"), medians("tonic")) else {
            continue;
        };
        let ratio = (goal.of)(&ours) / (goal.of)(&tonic);
        let (kept, words, bound) = match goal.bound {
            AtLeast(bound) => (ratio >= bound, "at least", bound),
            AtMost(bound) => (ratio <= bound, "at most", bound),
        };
        let client = match goal.table {
            "own" => String::new(),
            other => format!(" with {other}'s client"),
        };
        say(
            kept,
            format!(
                "{} {}x{}{client}, {}: {ratio:.3} of tonic's, {words} {bound:.3}",
                goal.workload, goal.connections, goal.in_flight, goal.what
            ),
        );
    }
    let writes = rows
        .iter()
        .filter(|row| row.stack == "ours" && row.table == "own")
        .filter(|row| (&*row.workload, row.connections, row.in_flight) == UNARY)
        .find_map(|row| row.syscalls);
    if let Some(writes) = writes {
        let writes = writes.writes;
        let text = format!("unary-100 1x64, writes a call: {writes:.3}, at most {WRITES}");
        say(writes <= WRITES, text);
    }
    broken
}
