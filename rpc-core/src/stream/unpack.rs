//! Large compressed messages, away from the tasks of connections and calls.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::Status;
use crate::wire::compression::Unpacking;

/// As many at a time as there are cores: what a message grows to nobody knows before, and all of them
/// are held.
static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    Arc::new(Semaphore::new(cores))
});

/// Decompresses the rest of a message on a thread for what blocks.
pub(crate) async fn unpack(unpacking: Box<Unpacking>) -> Result<Bytes, Status> {
    // Nobody closes it, and without a turn there is only less order.
    let turn = Arc::clone(&TURNS).acquire_owned().await.ok();
    let finish = move || {
        let message = unpacking.finish();
        drop(turn);
        message
    };
    match tokio::task::spawn_blocking(finish).await {
        Ok(message) => message,
        Err(error) => {
            Err(Status::internal("a message could not be decompressed").with_source(error))
        }
    }
}
