//! Hearing what other processes tell: one connection a storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::watch;

use super::connect::ACQUIRE;
use super::tell::decode;
use crate::clock::{Clock, SystemClock, sleep};
use crate::storage::Notification;
use crate::storage::notify::Notifier;

/// The task that listens; it runs from the first subscription on, until this is dropped or closed.
#[derive(Debug)]
pub(super) struct Listening {
    shared: Option<Arc<Shared>>,
    open: watch::Sender<bool>,
}

#[derive(Debug)]
struct Shared {
    server: PgConnectOptions,
    channel: String,
    tag: String,
    local: Arc<Notifier>,
    is_running: AtomicBool,
}

/// How often an idle connection is asked whether it still lives: nothing else tells a cut line.
const HEARTBEAT: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Listening {
    /// `server` is `None` where nobody is to listen.
    pub(super) fn new(
        server: Option<PgConnectOptions>,
        channel: &str,
        tag: &str,
        local: Arc<Notifier>,
    ) -> Self {
        let shared = server.map(|server| Shared {
            server,
            channel: channel.to_owned(),
            tag: tag.to_owned(),
            local,
            is_running: AtomicBool::new(false),
        });
        Self {
            shared: shared.map(Arc::new),
            open: watch::Sender::new(true),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// Starts the task, unless it runs, or there is no runtime to run it.
    pub(super) fn start(&self) {
        let Some(shared) = &self.shared else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !*self.open.borrow() || shared.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let (task, mut open) = (Task(shared.clone()), self.open.subscribe());
        runtime.spawn(async move {
            tokio::select! {
                () = task.run() => {}
                // An error: it was dropped.
                _ = open.wait_for(|open| !open) => {}
            }
        });
    }

    pub(super) fn close(&self) {
        self.open.send_replace(false);
    }
}

/// Also when its runtime ends, the next subscription begins anew.
struct Task(Arc<Shared>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Release);
        self.0.local.send([Notification::Missed]);
    }
}

impl Task {
    async fn run(&self) {
        let clock = SystemClock::new();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.listen(&clock, &mut pause).await {
                Ok(()) => tracing::debug!("the connection that listens ended"),
                // Its text may name the role.
                Err(_) => tracing::debug!("the connection that listens failed"),
            }
            // Nobody hears anything until it is back.
            self.0.local.send([Notification::Missed]);
            sleep(&clock, pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ends with the connection: whatever is wrong with it, another is made. sqlx could reconnect by
    /// itself, but does not say so each time that something may have been lost.
    async fn listen(&self, clock: &SystemClock, pause: &mut Duration) -> Result<(), sqlx::Error> {
        let shared = &*self.0;
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(shared.server.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        listener.listen(&shared.channel).await?;
        // What happened before is not told.
        shared.local.send([Notification::Missed]);
        *pause = FIRST_PAUSE;
        loop {
            let beat = clock.now() + HEARTBEAT;
            tokio::select! {
                heard = listener.try_recv() => match heard? {
                    Some(heard) => {
                        let notification = decode(&shared.tag, heard.payload());
                        shared.local.send(notification);
                    }
                    None => return Ok(()),
                },
                () = clock.sleep_until(beat) => {
                    tokio::select! {
                        alive = sqlx::raw_sql("SELECT 1").execute(&mut listener) => {
                            alive?;
                        }
                        () = sleep(clock, ACQUIRE) => return Ok(()),
                    }
                }
            }
        }
    }
}
