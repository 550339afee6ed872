//! What the command line asks for.

use benches::Outcome;
use benches::process::{Case, Cores, case};

pub(crate) const CASES: [Case; 8] = [
    case("unary-100", 1, 1),
    case("unary-100", 1, 64),
    case("unary-100", 1, 256),
    case("unary-100", 8, 64),
    case("unary-100-wait", 1, 64),
    case("server-stream-100", 1, 1),
    case("server-stream-1m", 1, 1),
    case("ping-pong", 1, 1),
];

/// The one stack that is no program of this repository.
pub(crate) const NGHTTP: &str = "nghttpd";

/// What is compared when nobody says otherwise.
const STACKS: [&str; 2] = ["ours", "tonic"];

pub(crate) struct Options {
    pub(crate) stacks: Vec<String>,
    /// `own`, or the stack whose client calls every server that speaks gRPC; one table after the other.
    pub(crate) clients: Vec<String>,
    pub(crate) workloads: Option<Vec<String>>,
    pub(crate) cores: Cores,
    pub(crate) tls: bool,
    /// Fails when a goal is not reached.
    pub(crate) check: bool,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) json: Option<String>,
    pub(crate) svg: Option<String>,
    /// Figures that were measured before, to be drawn.
    pub(crate) from: Option<String>,
}

impl Options {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            stacks: STACKS.map(ToOwned::to_owned).to_vec(),
            clients: vec!["own".to_owned()],
            workloads: None,
            cores: Cores::pinned(),
            tls: false,
            check: false,
            rounds: 5,
            seconds: 1.0,
            json: None,
            svg: None,
            from: None,
        };
        let mut words = words;
        let list = |text: &str| text.split(',').map(ToOwned::to_owned).collect::<Vec<_>>();
        while let Some(name) = words.next() {
            match name.as_str() {
                "--tls" => options.tls = true,
                "--check" => options.check = true,
                _ => {}
            }
            if matches!(name.as_str(), "--tls" | "--check") {
                continue;
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--stacks" if value == "all" => options.stacks = all(),
                "--stacks" => options.stacks = list(&value),
                "--client" => options.clients = list(&value),
                "--workloads" => options.workloads = Some(list(&value)),
                "--cores" if value == "all" => options.cores = Cores::all()?,
                "--cores" if value == "pinned" => options.cores = Cores::pinned(),
                "--rounds" => options.rounds = value.parse()?,
                "--seconds" => options.seconds = value.parse()?,
                "--json" => options.json = Some(value),
                "--svg" => options.svg = Some(value),
                "--from" => options.from = Some(value),
                _ => return Err(format!("there is no option {name} {value}").into()),
            }
        }
        Ok(options)
    }

    pub(crate) fn cases(&self) -> impl Iterator<Item = Case> {
        CASES.into_iter().filter(|case| {
            self.workloads
                .as_ref()
                .is_none_or(|wanted| wanted.iter().any(|name| name == case.workload))
        })
    }

    /// What the ratios are to: tonic, or the last stack of a list without it.
    pub(crate) fn base(&self) -> &str {
        // What may not be installed is nothing to compare with.
        let mut stacks = self.stacks.iter().filter(|stack| *stack != NGHTTP);
        let tonic = stacks.clone().find(|stack| *stack == "tonic");
        tonic
            .or(stacks.next_back())
            .map_or("nothing", String::as_str)
    }
}

fn all() -> Vec<String> {
    let programs = benches::build::STACKS.into_iter();
    programs.chain([NGHTTP]).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Outcome<Options> {
        Options::parse(text.split_whitespace().map(ToOwned::to_owned))
    }

    #[test]
    fn options_choose() {
        let options = parse("--stacks tonic --workloads ping-pong,unary-100 --rounds 3").unwrap();
        assert_eq!(options.stacks, ["tonic"]);
        assert_eq!(options.rounds, 3);
        let cases: Vec<_> = options.cases().map(|case| case.workload).collect();
        assert_eq!(
            cases,
            [
                "unary-100",
                "unary-100",
                "unary-100",
                "unary-100",
                "ping-pong"
            ]
        );
        assert_eq!(parse("").unwrap().cases().count(), CASES.len());
        assert_eq!(parse("").unwrap().cores, Cores::pinned());
    }

    #[test]
    fn ratios_are_to_tonic_where_it_takes_part() {
        assert_eq!(parse("").unwrap().base(), "tonic");
        assert_eq!(parse("--stacks all").unwrap().base(), "tonic");
        assert_eq!(parse("--stacks ours,h2,nghttpd").unwrap().base(), "h2");
    }

    #[test]
    fn what_is_no_option_is_named() {
        assert_eq!(
            parse("--fast 1").err().unwrap().to_string(),
            "there is no option --fast 1"
        );
        assert_eq!(
            parse("--json").err().unwrap().to_string(),
            "--json needs a value"
        );
    }
}
