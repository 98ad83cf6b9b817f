//! A network that fails when it is told to.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

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
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let network = Arc::new(watch::Sender::new(Network::Works));
        let (server, mut to) = watch::channel(server);
        let state = network.clone();
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
                let carried = carry(client, server, state.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = carried => {}
                        _ = moved.changed() => {}
                    }
                });
            }
        });
        Self {
            port,
            server,
            network,
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

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, server: TcpStream, mut network: watch::Receiver<Network>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut asked = network.clone();
    let requests = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            if asked
                .wait_for(|state| *state != Network::Silent)
                .await
                .is_err()
                || to_server.write_all(&buffer[..count]).await.is_err()
            {
                return;
            }
        }
    };
    let mut answered = network.clone();
    let answers = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            let state = answered.wait_for(|state| *state != Network::Silent).await;
            let state = state.map_or(Network::Cut, |state| *state);
            if state == Network::LosesAnswers {
                return;
            }
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = answers => {}
        _ = network.wait_for(|state| *state == Network::Cut) => {}
    }
}
