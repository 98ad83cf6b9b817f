//! A network that fails when it is told to: as a whole, or at one message of PostgreSQL's protocol.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod connection;
mod fault;
mod frames;

#[allow(unused_imports, reason = "not every test needs all of it")]
pub use fault::{Cut, Direction, Fault, Fired, Passed, Place, Seen, Sent, Then, When, may_fail};
#[allow(unused_imports, reason = "not every test needs all of it")]
pub use frames::Tag;

use connection::Connection;
use fault::Wire;

/// What the network does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    Works,
    /// What clients send arrives; at the first byte of an answer the connection breaks.
    LosesAnswers,
    /// Nothing arrives, and nobody is told.
    Silent,
    /// Connections break, and new ones are not taken.
    Cut,
}

/// Between clients and a server on the loopback.
pub struct Proxy {
    port: u16,
    server: watch::Sender<u16>,
    network: Arc<watch::Sender<Network>>,
    wire: Arc<Wire>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let network = Arc::new(watch::Sender::new(Network::Works));
        let wire = Arc::new(Wire::new());
        let (server, mut to) = watch::channel(server);
        let (state, shared) = (network.clone(), wire.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *state.borrow() == Network::Cut {
                    continue;
                }
                let port = *to.borrow_and_update();
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
                    continue;
                };
                let mut moved = to.clone();
                let carried = Connection::new(client, server, shared.clone(), state.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = carried.run() => {}
                        _ = moved.changed() => {}
                    }
                });
            }
        });
        Self {
            port,
            server,
            network,
            wire,
            task,
        }
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// From now on another server is there; connections to the one before break.
    pub fn lead_to(&self, server: u16) {
        self.server.send_replace(server);
    }

    /// New connections lead to another server from now on, as a balancer does it; those that are there
    /// stay.
    pub fn lead_new_to(&self, server: u16) {
        self.server.send_if_modified(|port| {
            *port = server;
            false
        });
    }

    /// Counts from now on, and breaks this once.
    pub fn arm(&self, fault: Option<Fault>) {
        self.wire.arm(fault);
    }

    /// Once what it was armed with has struck, this does, once.
    pub fn then(&self, then: Option<Then>) {
        self.wire.then(then);
    }

    /// What is counted from now on is of this step of a test.
    pub fn set_step(&self, step: usize) {
        self.wire.set_step(step);
    }

    /// Nothing breaks any more. Connections that are broken without anybody being told end.
    pub fn heal(&self) {
        self.wire.heal();
    }

    /// What was counted since it was armed.
    pub fn seen(&self) -> Seen {
        self.wire.seen()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// `role` may have a password behind a colon.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
