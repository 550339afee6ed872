//! The live table: drawn over itself on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::tally::Tally;

pub(crate) struct Table {
    live: bool,
    /// The lines of the last drawing, to be drawn over.
    lines: usize,
    drawn: Instant,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            live: io::stdout().is_terminal(),
            lines: 0,
            drawn: Instant::now(),
        }
    }

    /// How often it wants to be drawn.
    pub(crate) fn period(&self) -> Duration {
        Duration::from_millis(if self.live { 500 } else { 2_000 })
    }

    /// Prints a line above the table.
    pub(crate) fn say(&mut self, tally: &Tally, what: &str) -> io::Result<()> {
        let text = format!("{:6.2} s  {what}\n", tally.elapsed().as_secs_f32());
        self.replace(&text)?;
        self.lines = 0;
        Ok(())
    }

    /// Draws what there was since the last drawing.
    pub(crate) fn draw(&mut self, tally: &mut Tally) -> io::Result<()> {
        let period = self.drawn.elapsed().as_secs_f64();
        self.drawn = Instant::now();
        let all: usize = tally.shares.values().map(|share| share.calls).sum();
        if all == 0 {
            return Ok(());
        }
        let mut text =
            String::from("          endpoint           share  calls/s      p50      p99  failed\n");
        for (endpoint, mut share) in std::mem::take(&mut tally.shares) {
            let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
            text.push_str(&format!(
                "          {endpoint:<16}  {:>5.1} %  {:>7.0}  {:>4.1} ms  {:>4.1} ms  {:>6}\n",
                share.calls as f64 * 100.0 / all as f64,
                share.calls as f64 / period,
                milliseconds(share.percentile(50)),
                milliseconds(share.percentile(99)),
                share.failed,
            ));
        }
        self.replace(&text)?;
        self.lines = if self.live { text.lines().count() } else { 0 };
        Ok(())
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.lines > 0 {
            // Up to the table's first line, and everything from there away.
            write!(out, "\x1b[{}A\x1b[J", self.lines)?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}
