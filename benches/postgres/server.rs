//! The server, its databases, and what is opened there.

use std::path::Path;

use flowstream::Flowstream;
use tokio::runtime::Runtime;

use crate::postgres_support::Cluster;
use crate::support::{Flavour, parent, run};

/// How the server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Socket,
    Tcp,
}

impl Link {
    pub(crate) const ALL: [Self; 2] = [Self::Socket, Self::Tcp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Tcp => "tcp",
        }
    }
}

pub(crate) struct Server(Cluster);

impl Server {
    pub(crate) fn start() -> Self {
        // A checkpoint in a window is the machine's mood, as far as this is concerned.
        let settings = [("max_wal_size", "4GB"), ("checkpoint_timeout", "30min")];
        Self(Cluster::start_in(place(), &settings))
    }

    pub(crate) fn version(&self) -> String {
        let version = self.psql("postgres", "SHOW server_version");
        format!("PostgreSQL {version}, fsync on")
    }

    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        self.0.psql(database, sql).trim().to_owned()
    }

    pub(crate) fn number(&self, database: &str, sql: &str) -> f64 {
        let answer = self.psql(database, sql);
        answer.parse().expect("a number")
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port()
    }
}

/// A socket has a path of at most 107 bytes, and the server may run as another user.
fn place() -> &'static Path {
    let parent = parent();
    let is_short = parent.as_os_str().len() < 60;
    match is_short && Cluster::can_use(parent) {
        true => parent,
        false => {
            println!("WARNING: the server cannot use {}", parent.display());
            Path::new("/var/tmp")
        }
    }
}

/// A new database, dropped afterwards.
pub(crate) struct Database<'a> {
    pub(crate) server: &'a Server,
    pub(crate) name: String,
}

impl<'a> Database<'a> {
    /// With the tables that the limits need.
    pub(crate) fn new(server: &'a Server) -> Self {
        let name = server.0.database();
        server.psql(&name, include_str!("limits.sql"));
        Self { server, name }
    }

    pub(crate) fn url(&self, link: Link) -> String {
        match link {
            Link::Socket => self.server.0.socket_url(&self.name),
            Link::Tcp => self.server.0.url(&self.name),
        }
    }

    pub(crate) fn psql(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql)
    }

    pub(crate) fn number(&self, sql: &str) -> f64 {
        self.server.number(&self.name, sql)
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        self.server.psql("postgres", &sql);
    }
}

/// A storage in a database of its own, and a runtime for it.
pub(crate) struct Opened<'a> {
    // Goes first: the storage is closed while there is a runtime, and a database.
    pub(crate) flow: Flowstream,
    pub(crate) runtime: Runtime,
    pub(crate) database: Database<'a>,
    pub(crate) link: Link,
}

impl<'a> Opened<'a> {
    pub(crate) fn new(server: &'a Server, link: Link) -> Self {
        let database = Database::new(server);
        let runtime = Flavour::Multi.runtime();
        let url = database.url(link);
        let flow = run(&runtime, async move { flowstream::open(&url).await });
        Self {
            flow: flow.expect("a storage"),
            runtime,
            database,
            link,
        }
    }

    pub(crate) fn url(&self) -> String {
        self.database.url(self.link)
    }
}
