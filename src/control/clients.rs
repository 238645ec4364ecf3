//! Clients of a listener, so many at once.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;

/// After accepting has failed, for want of descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// Accepts for as long as it is polled, on a `LocalSet`, and attends to each client in a task of its
/// own. Beyond `most` at once they wait in the kernel's queue.
pub async fn attend_each<C, F>(
    most: usize,
    mut accept: impl AsyncFnMut() -> io::Result<C>,
    attend: impl Fn(C) -> F,
) -> Infallible
where
    F: Future<Output = ()> + 'static,
{
    let room = Arc::new(Semaphore::new(most));
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return std::future::pending().await;
        };
        match accept().await {
            Ok(client) => {
                let attended = attend(client);
                tokio::task::spawn_local(async move {
                    attended.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a client could not be accepted");
                sleep(RETRY).await;
            }
        }
    }
}
