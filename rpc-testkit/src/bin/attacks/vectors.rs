//! The attacks that end a connection, and what they are measured by.

use std::io;
use std::time::Duration;

use rpc_core::BoxFuture;
use rpc_http2::frame::{flag, kind};
use rpc_testkit::promises::Promises;
use rpc_testkit::raw::{Ended, frame};

use crate::acts::{self, HANG, Pace, Went};
use crate::scene::Scene;
use crate::table::Row;
use crate::victim::Victim;
use crate::{ENHANCE_YOUR_CALM, GROWTH, Outcome, STREAMS};

type Act = fn(String) -> BoxFuture<'static, io::Result<Went>>;

/// An attack, and what it is measured by.
pub(crate) struct Vector {
    pub(crate) id: &'static str,
    name: &'static str,
    /// Limits that would stop it before the one that is looked at does.
    without: &'static [&'static str],
    /// The limits that stop it.
    limits: &'static [&'static str],
    attack: Act,
    /// What looks alike and has to be let through.
    twin: Act,
    /// Whether the connection has to end; otherwise it may.
    ends: bool,
    /// Whether it reads; a GOAWAY cannot reach one that does not, before the connection is closed.
    reads: bool,
    /// The most acts that the server may take in, with a small slack.
    most: Option<u32>,
    /// How long it may take.
    within: Duration,
}

macro_rules! act {
    ($function:expr) => {
        |address| Box::pin(async move { $function(&address).await })
    };
}

/// 1,000 early resets at once, and those that are allowed while these come.
const RESETS: Option<u32> = Some(1_500);
/// 200 resets that the peer has caused, and some streams for whose refusal it was not to blame.
const CAUSED: Option<u32> = Some(200 + 10);
/// 20,000 frames that carry nothing, and what is on its way.
const IDLE: Option<u32> = Some(20_000 + 500);
/// Within which time resets, header blocks and empty frames are stopped.
const SOON: Duration = Duration::from_secs(2);
/// The same for floods of control frames.
const FLOOD: Duration = Duration::from_secs(5);

const fn vector(
    id: &'static str,
    name: &'static str,
    limits: &'static [&'static str],
    attack: Act,
) -> Vector {
    Vector {
        id,
        name,
        without: &[],
        limits,
        attack,
        twin: act!(acts::pings),
        ends: true,
        reads: true,
        most: None,
        within: SOON,
    }
}

const fn induced(id: &'static str, name: &'static str, attack: Act) -> Vector {
    Vector {
        twin: act!(acts::abandoned_streams),
        most: CAUSED,
        ..vector(id, name, &["caused_resets"], attack)
    }
}

const fn unending(id: &'static str, name: &'static str, most: u32, attack: Act) -> Vector {
    Vector {
        twin: act!(acts::split_metadata),
        most: Some(most),
        ..vector(id, name, &["header_block"], attack)
    }
}

const fn flood(id: &'static str, name: &'static str, attack: Act) -> Vector {
    Vector {
        most: IDLE,
        within: FLOOD,
        ..vector(id, name, &["unsent_answers", "idle_frames"], attack)
    }
}

/// A flood by one who reads nothing.
const fn unread(id: &'static str, name: &'static str, attack: Act) -> Vector {
    Vector {
        reads: false,
        // The answers that arrive are not all that the server has taken in.
        most: None,
        ..flood(id, name, attack)
    }
}

pub(crate) const VECTORS: &[Vector] = &[
    Vector {
        twin: act!(|address| acts::give_up(address, 3_000, false)),
        most: RESETS,
        ..vector(
            "S1",
            "rapid reset",
            &["early_resets"],
            act!(acts::rapid_reset),
        )
    },
    induced(
        "S2a",
        "WINDOW_UPDATE of 0",
        act!(|address| acts::induced(address, |stream| {
            frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4])
        })),
    ),
    induced(
        "S2b",
        "WINDOW_UPDATE overflow",
        act!(|address| acts::induced(address, |stream| {
            frame(
                kind::WINDOW_UPDATE,
                0,
                stream,
                &0x7fff_ffffu32.to_be_bytes(),
            )
        })),
    ),
    induced(
        "S2c",
        "PRIORITY too short",
        act!(|address| acts::induced(address, |stream| {
            frame(kind::PRIORITY, 0, stream, &[0; 4])
        })),
    ),
    Vector {
        // RFC 9113 ignores what PRIORITY says; what may end it is the number of its streams.
        ends: false,
        limits: &["unsent_answers"],
        most: None,
        // When nothing ends it, that is waited for.
        within: Duration::from_secs(3),
        ..induced(
            "S2d",
            "PRIORITY on itself",
            act!(|address| acts::induced(address, |stream| {
                let payload = [&stream.to_be_bytes()[..], &[0]].concat();
                frame(kind::PRIORITY, 0, stream, &payload)
            })),
        )
    },
    induced(
        "S2e",
        "HEADERS after the end",
        act!(|address| acts::after_end(address, |client, stream| {
            let block = client.block(HANG, &[]);
            let flags = flag::END_HEADERS | flag::END_STREAM;
            frame(kind::HEADERS, flags, stream, &block)
        })),
    ),
    induced(
        "S2f",
        "DATA after the end",
        act!(|address| acts::after_end(address, |_, stream| {
            frame(kind::DATA, 0, stream, &[0])
        })),
    ),
    // The frame after the eighth is the one that is too many.
    unending(
        "S4a",
        "CONTINUATION of nothing",
        8 + 1,
        act!(|address| acts::continuations(address, 0, Pace::CONTINUATIONS)),
    ),
    unending(
        "S4b",
        "CONTINUATION of 1 octet",
        8 + 1,
        act!(|address| acts::continuations(address, 1, Pace::CONTINUATIONS)),
    ),
    unending(
        "S4c",
        "CONTINUATION of 16 KiB",
        64 / 16 + 1,
        act!(|address| acts::continuations(address, 16_384, Pace::CONTINUATIONS)),
    ),
    Vector {
        without: &["pings"],
        ..flood(
            "S6a",
            "PING flood",
            act!(|address| acts::idle(address, frame(kind::PING, 0, 0, &[7; 8]), Pace::ANSWERED)),
        )
    },
    flood(
        "S6b",
        "SETTINGS flood",
        act!(|address| acts::idle(address, frame(kind::SETTINGS, 0, 0, &[]), Pace::ANSWERED)),
    ),
    Vector {
        without: &["pings"],
        ..unread(
            "S6c",
            "PING flood, unread",
            act!(|address| acts::flood(address, kind::PING, &[7; 8], None)),
        )
    },
    unread(
        "S6d",
        "SETTINGS flood, unread",
        act!(|address| acts::flood(address, kind::SETTINGS, &[], None)),
    ),
    Vector {
        without: &["idle_frames", "pings"],
        ..unread(
            "S6e",
            "PING flood, receiver shut",
            act!(|address| acts::flood(address, kind::PING, &[7; 8], Some(2048))),
        )
    },
    flood(
        "S6f",
        "PRIORITY flood",
        act!(|address| acts::idle(address, frame(kind::PRIORITY, 0, 1, &[0; 5]), Pace::IDLE)),
    ),
    flood(
        "S6g",
        "unknown frames",
        act!(|address| acts::idle(address, frame(0xee, 0, 0, &[]), Pace::IDLE)),
    ),
    flood("S6h", "data dribble", act!(acts::dribble)),
    Vector {
        // The first is free, two strikes are borne.
        most: Some(4),
        limits: &["pings"],
        ..flood(
            "S6j",
            "PING without a reason",
            act!(|address| acts::idle(
                address,
                frame(kind::PING, 0, 0, &[7; 8]),
                Pace::CONTINUATIONS
            )),
        )
    },
    Vector {
        twin: act!(acts::settings),
        most: Some(1),
        limits: &["settings"],
        ..flood(
            "S22",
            "SETTINGS of 10,922 windows",
            act!(acts::many_windows),
        )
    },
    Vector {
        most: CAUSED,
        limits: &["caused_resets"],
        ..flood("S6i", "header names of nothing", act!(acts::nameless))
    },
    Vector {
        twin: act!(acts::small_data),
        // The frame after the hundredth, and what is on its way.
        most: Some(100 + 1 + 2),
        ..vector("S9", "empty DATA", &["empty_data"], act!(acts::empty_data))
    },
];

/// Makes an attack, and looks what came of it.
pub(crate) async fn attack(vector: &Vector, promises: &mut Promises) -> Outcome<()> {
    let mut scene = Scene::begin(vector.without).await?;
    let went = (vector.attack)(scene.victim.address.clone()).await?;
    scene.attacked()?;
    let twin = (vector.twin)(scene.victim.address.clone()).await?;
    let found = scene.end(()).await?;
    let control = Victim::start(&[vector.without, vector.limits].concat())?;
    let off = (vector.attack)(control.address.clone()).await?;
    let row = Row {
        id: vector.id,
        name: vector.name,
        ended: format!("{:?}", went.ended),
        count: Some(went.seen.into()),
        most: vector.most.map(u64::from),
        took: went.took,
        within: Some(vector.within),
        growth: Some(GROWTH),
        handlers: STREAMS,
        twin: format!("{:?} {}", twin.ended, twin.acts),
        off: format!("{:?} {}", off.ended, off.acts),
        known: &[],
    };
    let checks = [
        (
            !vector.ends
                || went.ended == Ended::GoAway(ENHANCE_YOUR_CALM)
                || (!vector.reads && went.ended == Ended::Closed),
            "it was not ended with ENHANCE_YOUR_CALM",
        ),
        (twin.ended == Ended::Not, "its honest twin was ended too"),
        (
            !vector.ends || off.ended == Ended::Not,
            "it is ended without the limit too",
        ),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}
