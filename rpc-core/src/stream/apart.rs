//! Large compressed and heavy messages, away from the tasks of connections and calls.

use std::panic::resume_unwind;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::codec::Decoder;
use crate::wire::compression::Unpacking;
use crate::wire::message;
use crate::{Deadline, Status};

/// As many at a time as there are cores: what a message grows to nobody knows before, and all of them
/// are held.
static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    Arc::new(Semaphore::new(cores))
});

/// Decompresses the rest of a message on a thread for what blocks.
pub(crate) async fn unpack(unpacking: Box<Unpacking>) -> Result<Bytes, Status> {
    let mut unpacking = unpacking;
    let turn = turn(Some(&mut unpacking)).await;
    apart(turn, || unpacking.finish()).await
}

/// A message that is not decoded in passing.
pub(crate) enum Large {
    Heavy(Bytes),
    Packed(Box<Unpacking>),
}

/// Decodes a message on a thread for what blocks.
pub(crate) async fn decode_apart<T: Send + 'static>(
    decoder: Decoder<T>,
    large: Large,
) -> Result<T, Status> {
    let mut large = large;
    let turn = turn(match &mut large {
        Large::Heavy(_) => None,
        Large::Packed(unpacking) => Some(unpacking),
    });
    apart(turn.await, move || {
        let bytes = match large {
            Large::Heavy(bytes) => bytes,
            Large::Packed(unpacking) => unpacking.finish()?,
        };
        message::decode(&decoder, bytes)
    })
    .await
}

/// Decodes a heavy message for one who waits no longer than to a deadline.
pub(crate) async fn decode_heavy<T>(
    decoder: Decoder<T>,
    bytes: Bytes,
    deadline: Option<Deadline>,
) -> Result<T, Status> {
    let decoding = (decoder.decode_apart)(decoder, Large::Heavy(bytes));
    let Some(deadline) = deadline else {
        return decoding.await;
    };
    match tokio::time::timeout_at(deadline.instant(), decoding).await {
        Ok(decoded) => decoded,
        Err(_) => Err(Status::deadline_exceeded(
            "the response was not decoded by the deadline",
        )),
    }
}

/// Waits for a turn; what has to wait is set aside.
async fn turn(unpacking: Option<&mut Unpacking>) -> Option<OwnedSemaphorePermit> {
    if let Ok(turn) = Arc::clone(&TURNS).try_acquire_owned() {
        return Some(turn);
    }
    if let Some(unpacking) = unpacking {
        unpacking.set_aside();
    }
    // Nobody closes it, and without a turn there is only less order.
    Arc::clone(&TURNS).acquire_owned().await.ok()
}

async fn apart<T: Send + 'static>(
    turn: Option<OwnedSemaphorePermit>,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    // A stream may be read where there is no runtime.
    if Handle::try_current().is_err() {
        return work();
    }
    let done = tokio::task::spawn_blocking(move || {
        let outcome = work();
        drop(turn);
        outcome
    });
    match done.await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            // As if it had been here.
            Ok(panic) => resume_unwind(panic),
            Err(error) => {
                Err(Status::internal("a message could not be taken in").with_source(error))
            }
        },
    }
}
