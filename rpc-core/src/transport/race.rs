//! Attempts beside each other, of which the first that succeeds counts: [`race`].

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::BoxFuture;

/// Starts one attempt after the other, as soon as all before have failed or one has had `delay` for
/// itself. Gives what the first one that succeeds does, or all failures in the order of their coming.
///
/// Source: RFC 8305, section 5.
pub(crate) async fn race<T, E>(
    attempts: impl Iterator<Item = BoxFuture<'_, Result<T, E>>>,
    delay: Duration,
) -> Result<T, Vec<E>> {
    let mut rest = attempts.fuse();
    let mut running = Vec::new();
    let mut failures = Vec::new();
    let mut next = std::pin::pin!(tokio::time::sleep(delay));
    poll_fn(|cx| {
        loop {
            if (running.is_empty() || next.as_mut().poll(cx).is_ready())
                && let Some(attempt) = rest.next()
            {
                running.push(attempt);
                next.as_mut().reset(Instant::now() + delay);
                continue;
            }
            if running.is_empty() {
                return Poll::Ready(Err(std::mem::take(&mut failures)));
            }
            let before = failures.len();
            if let Some(won) = poll_all(&mut running, &mut failures, cx) {
                return Poll::Ready(Ok(won));
            }
            if failures.len() == before {
                return Poll::Pending;
            }
            if let Some(attempt) = rest.next() {
                running.push(attempt);
                next.as_mut().reset(Instant::now() + delay);
            }
        }
    })
    .await
}

fn poll_all<T, E>(
    running: &mut Vec<BoxFuture<'_, Result<T, E>>>,
    failures: &mut Vec<E>,
    cx: &mut Context<'_>,
) -> Option<T> {
    let mut won = None;
    running.retain_mut(|attempt| match (&won, attempt.as_mut().poll(cx)) {
        (None, Poll::Ready(Ok(value))) => {
            won = Some(value);
            false
        }
        (None, Poll::Ready(Err(error))) => {
            failures.push(error);
            false
        }
        _ => true,
    });
    won
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(250);

    type Attempts = Vec<BoxFuture<'static, Result<u32, u32>>>;

    /// Attempts that end after so many milliseconds, or never.
    fn attempts(list: &[(Option<u64>, Result<u32, u32>)]) -> Attempts {
        list.iter()
            .map(|&(after, outcome)| -> BoxFuture<'static, _> {
                Box::pin(async move {
                    match after {
                        Some(after) => tokio::time::sleep(Duration::from_millis(after)).await,
                        None => std::future::pending().await,
                    }
                    outcome
                })
            })
            .collect()
    }

    async fn run(list: &[(Option<u64>, Result<u32, u32>)]) -> (Result<u32, Vec<u32>>, u128) {
        let started = Instant::now();
        let outcome = race(attempts(list).into_iter(), DELAY).await;
        (outcome, started.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_one_keeps_nobody() {
        let outcome = run(&[(None, Ok(1)), (None, Ok(2)), (Some(10), Ok(3))]).await;
        assert!(
            outcome.0 == Ok(3) && (510..520).contains(&outcome.1),
            "{outcome:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_starts_when_all_before_have_failed() {
        let outcome = run(&[(Some(5), Err(1)), (Some(5), Err(2)), (Some(5), Ok(3))]).await;
        assert!(
            outcome.0 == Ok(3) && (15..25).contains(&outcome.1),
            "{outcome:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_may_still_win() {
        let outcome = run(&[(Some(300), Ok(1)), (None, Ok(2))]).await;
        assert!(
            outcome.0 == Ok(1) && (300..310).contains(&outcome.1),
            "{outcome:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_are_told() {
        let outcome = run(&[(Some(400), Err(1)), (Some(5), Err(2))]).await;
        assert_eq!(outcome.0, Err(vec![2, 1]));
        assert_eq!(run(&[]).await.0, Err(vec![]));
    }
}
