//! The answers of a server, as a client of frames reads them.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use rpc_http2::frame::{flag, kind, setting};
use rpc_http2::hpack::Decoder;
use rpc_testkit::raw::{RawClient, RawReader, frame, message};

pub(crate) const OK: u32 = 0;
pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;

/// How often each `grpc-status` was answered.
#[derive(Debug, Default)]
pub(crate) struct Answers(BTreeMap<u32, u64>);

impl Answers {
    pub(crate) fn of(&self, status: u32) -> u64 {
        self.0.get(&status).copied().unwrap_or(0)
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (status, count) in &other.0 {
            *self.0.entry(*status).or_default() += count;
        }
    }

    pub(crate) fn text(&self) -> String {
        let each: Vec<_> = self
            .0
            .iter()
            .map(|(status, count)| format!("{count} x {status}"))
            .collect();
        format!("status {}", each.join(", "))
    }
}

/// A client of frames that keeps to the windows of its server and counts the answers.
pub(crate) struct Caller {
    client: RawClient,
    reader: RawReader,
    decoder: Decoder,
    answers: Answers,
    /// How many streams were answered or reset.
    over: Vec<u32>,
    initial: i64,
    connection: i64,
    /// What each stream was given more.
    credit: BTreeMap<u32, i64>,
}

impl Caller {
    pub(crate) async fn connect(address: &str) -> io::Result<Self> {
        let settings = [(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)];
        let (mut client, reader) = RawClient::connect(address, &settings).await?;
        let update = frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes());
        client.write(&update).await?;
        Ok(Self {
            client,
            reader,
            decoder: Decoder::new(4096, 1 << 20, 1 << 10),
            answers: Answers::default(),
            over: Vec::new(),
            initial: 65_535,
            connection: 65_535,
            credit: BTreeMap::new(),
        })
    }

    /// Makes a call with a message, compressed or not; does not wait for its answer.
    pub(crate) async fn call(&mut self, path: &str, octets: &[u8], zipped: bool) -> io::Result<()> {
        let fields: &[_] = if zipped {
            &[("grpc-encoding", "gzip")]
        } else {
            &[]
        };
        let block = self.client.block(path, fields);
        let stream = self.client.stream();
        let head = frame(kind::HEADERS, flag::END_HEADERS, stream, &block);
        self.client.write(&head).await?;
        let mut body = message(octets);
        body[0] = u8::from(zipped);
        let (mut rest, mut sent) = (&body[..], 0);
        while !rest.is_empty() && !self.over.contains(&stream) {
            let credit = self.credit.get(&stream).copied().unwrap_or(0);
            let room = (self.initial + credit - sent).min(self.connection);
            let some = usize::try_from(room).unwrap_or(0).min(16 * 1024);
            if some == 0 {
                self.next().await?;
                continue;
            }
            let (piece, more) = rest.split_at(some.min(rest.len()));
            rest = more;
            sent += piece.len() as i64;
            self.connection -= piece.len() as i64;
            let end = if rest.is_empty() { flag::END_STREAM } else { 0 };
            self.client
                .write(&frame(kind::DATA, end, stream, piece))
                .await?;
        }
        Ok(())
    }

    /// Waits until so many calls are over, and says how they were answered.
    pub(crate) async fn answers(&mut self, calls: usize) -> io::Result<Answers> {
        while self.over.len() < calls {
            self.next().await?;
        }
        Ok(std::mem::take(&mut self.answers))
    }

    /// Takes in one frame.
    async fn next(&mut self) -> io::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let next = tokio::time::timeout(PATIENCE, self.reader.next()).await;
        let Ok(Some(next)) = next else {
            return Err(io::Error::other("the server does not answer"));
        };
        let header = next.header;
        let word = |place: usize| {
            let word = next
                .payload
                .get(place..)
                .and_then(|rest| rest.first_chunk());
            word.map_or(0, |word| i64::from(u32::from_be_bytes(*word)))
        };
        match header.kind {
            kind::SETTINGS => {
                for (place, entry) in next.payload.chunks(6).enumerate() {
                    if entry.starts_with(&setting::INITIAL_WINDOW_SIZE.to_be_bytes()) {
                        self.initial = word(place * 6 + 2);
                    }
                }
            }
            kind::WINDOW_UPDATE if header.stream == 0 => self.connection += word(0),
            kind::WINDOW_UPDATE => *self.credit.entry(header.stream).or_default() += word(0),
            kind::DATA if header.length > 0 => {
                let more = header.length.to_be_bytes();
                let update = frame(kind::WINDOW_UPDATE, 0, 0, &more);
                self.client.write(&update).await?;
            }
            kind::HEADERS => {
                let block = self.decoder.decode(&next.payload);
                let block = block.map_err(io::Error::other)?;
                if header.has(flag::END_STREAM) {
                    let status = block
                        .fields()
                        .find(|(name, _)| *name == b"grpc-status")
                        .and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
                    *self
                        .answers
                        .0
                        .entry(status.unwrap_or(u32::MAX))
                        .or_default() += 1;
                    self.over.push(header.stream);
                }
            }
            // After an answer it says that no more of the request is wanted.
            kind::RST_STREAM if !self.over.contains(&header.stream) => {
                self.over.push(header.stream);
            }
            kind::GOAWAY => return Err(io::Error::other("the server has said GOAWAY")),
            _ => {}
        }
        Ok(())
    }
}

/// Waits until the server has taken in what was sent, or has ended the connection.
pub(crate) async fn taken_in(client: &mut RawClient, reader: &mut RawReader) -> bool {
    const MARK: [u8; 8] = *b"taken in";
    if client.write(&frame(kind::PING, 0, 0, &MARK)).await.is_err() {
        return true;
    }
    let answered = async {
        while let Some(next) = reader.next().await {
            if next.header.kind == kind::PING && next.payload == MARK {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answered)
        .await
        .is_ok()
}
