//! The table: a row for each attack, and what it has broken of its promises.

use std::fmt::Display;
use std::time::Duration;

use rpc_testkit::promises::Promises;

use crate::scene::Found;

/// What is above the rows.
pub(crate) fn head() {
    println!(
        "{:<4} {:<34} {:<12} {:>13} {:>12} {:>15} {:>6} {:>5} {:>9} {:>7}  {:<24} limit off",
        "id",
        "attack",
        "ended",
        "count/most",
        "ms/most",
        "peak/most KiB",
        "left",
        "live",
        "bystander",
        "p99 ms",
        "twin"
    );
}

/// The promise of how much memory an attack takes.
pub(crate) const MEMORY: &str = "it took too much memory";
/// The promise to the bystander.
pub(crate) const DISTURBED: &str = "the bystander's calls failed or were slow";

/// One attack, and what it came to.
pub(crate) struct Row<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    /// How it ended for the attacker.
    pub(crate) ended: String,
    /// What was counted, where something is.
    pub(crate) count: Option<u64>,
    /// The most that it may be.
    pub(crate) most: Option<u64>,
    pub(crate) took: Duration,
    /// How long it may take.
    pub(crate) within: Option<Duration>,
    /// How much memory it may take, in KiB, where that is promised.
    pub(crate) growth: Option<u64>,
    /// How many handlers it may keep.
    pub(crate) handlers: u64,
    /// What became of the honest twin; `-` when there is none.
    pub(crate) twin: String,
    /// What happens without the limit; `-` when there is none to turn off.
    pub(crate) off: String,
    /// What is known to be broken, and does not fail the run until it is mended.
    pub(crate) known: &'a [&'static str],
}

fn of(count: impl Display, most: Option<impl Display>) -> String {
    most.map_or_else(|| format!("{count}/-"), |most| format!("{count}/{most}"))
}

/// What is left, and what a second attack added to it.
fn left(found: &Found) -> String {
    match (found.left, found.again) {
        (None, _) => "?".to_owned(),
        (Some(left), None) => left.to_string(),
        (Some(left), Some(more)) => format!("{left}+{more}"),
    }
}

impl Row<'_> {
    /// Prints it, and each promise that it and these checks have broken.
    pub(crate) fn print(&self, found: &Found, checks: &[(bool, &str)], promises: &mut Promises) {
        let seen = &found.seen;
        let count = self
            .count
            .map_or_else(|| "-".to_owned(), |n| of(n, self.most));
        println!(
            "{:<4} {:<34} {:<12} {:>13} {:>12} {:>15} {:>6} {:>5} {:>9} {:>7.1}  {:<24} {}",
            self.id,
            self.name,
            self.ended,
            count,
            of(
                self.took.as_millis(),
                self.within.map(|within| within.as_millis())
            ),
            of(found.peak, self.growth),
            left(found),
            seen.live,
            format!("{}/{}", seen.failed, seen.calls),
            seen.p99.as_secs_f64() * 1e3,
            self.twin,
            self.off,
        );
        let counted = match (self.count, self.most) {
            (Some(count), Some(most)) => count <= most,
            _ => true,
        };
        let common = [
            (counted, "it went on for too long"),
            (
                self.within.is_none_or(|within| self.took <= within),
                "it took too long",
            ),
            (
                self.growth.is_none_or(|growth| found.peak <= growth),
                MEMORY,
            ),
            (seen.live <= self.handlers, "it kept too many handlers"),
            (seen.is_undisturbed(), DISTURBED),
            (found.left.is_some(), "the server did not come to rest"),
            (
                found.left.is_none() || found.is_at_rest(),
                "the server still holds memory that it did not hold before",
            ),
        ];
        for (_, broken) in common.iter().chain(checks).filter(|(kept, _)| !kept) {
            if self.known.contains(broken) {
                println!("KNOWN  {} {}: {broken}", self.id, self.name);
            } else {
                promises.keep(false, format!("{} {}: {broken}", self.id, self.name));
            }
        }
    }
}
