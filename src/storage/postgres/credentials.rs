//! Who logs in: asked for before each connection is made.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use sqlx::postgres::PgConnectOptions;

use crate::panics::unwound;

type Given = Result<PgConnectOptions, Box<dyn StdError + Send + Sync>>;

/// Gives the options that a connection is made with, out of those that it was to be made with.
#[derive(Clone)]
pub(super) struct Credentials(
    Arc<dyn Fn(PgConnectOptions) -> BoxFuture<'static, Given> + Send + Sync>,
);

impl Credentials {
    pub(super) fn new<F, R>(give: F) -> Self
    where
        F: Fn(PgConnectOptions) -> R + Send + Sync + 'static,
        R: Future<Output = Given> + Send + 'static,
    {
        Self(Arc::new(move |server| Box::pin(give(server))))
    }

    /// The options with credentials of this moment. Where there are none now, there may be some later: as if
    /// nobody answered at the server.
    pub(super) async fn of(
        &self,
        server: PgConnectOptions,
    ) -> Result<PgConnectOptions, sqlx::Error> {
        let given = unwound(pin!(async { (self.0)(server).await })).await;
        let why = match given {
            Ok(Ok(server)) => return Ok(server),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "what gives them panicked".to_owned(),
        };
        let error = io::Error::other(format!("no credentials: {why}"));
        Err(sqlx::Error::Io(error))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}
