//! A server that does not take all that a session of ours would say to it.

use std::sync::Arc;

use futures::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use crate::{cluster, next, open};

const SETTING: &[u8] = b"client_connection_check_interval";

fn has_setting(bytes: &[u8]) -> bool {
    bytes.windows(SETTING.len()).any(|part| part == SETTING)
}

/// What a server says that cannot tell whether a client is still there (on Windows, say).
fn refusal(severity: &str) -> Vec<u8> {
    let fields = format!(
        "S{severity}\0V{severity}\0C22023\0Minvalid value for parameter \
         \"client_connection_check_interval\": 5000\0\0"
    );
    let length = (fields.len() as u32 + 4).to_be_bytes();
    [b"E", &length[..], fields.as_bytes()].concat()
}

/// Between the clients and a server, and refuses the setting: at the start of a session as in it.
async fn picky(server: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            tokio::spawn(carry(client, server));
        }
    });
    port
}

/// One message of a client: at the start of a session it has no letter.
async fn message(client: &mut OwnedReadHalf, has_letter: bool) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 4 + usize::from(has_letter)];
    client.read_exact(&mut message).await?;
    let length = message.last_chunk::<4>().unwrap();
    let length = u32::from_be_bytes(*length) as usize - 4;
    let start = message.len();
    message.resize(start + length, 0);
    client.read_exact(&mut message[start..]).await?;
    Ok(message)
}

async fn carry(client: TcpStream, server: TcpStream) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let start = message(&mut from_client, false).await?;
    if has_setting(&start) {
        return to_client.write_all(&refusal("FATAL")).await;
    }
    to_server.write_all(&start).await?;
    // The server says nothing while it is not asked, so an answer of ours is not in its way.
    let to_client = Arc::new(Mutex::new(to_client));
    let answers = {
        let to_client = to_client.clone();
        async move {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = from_server.read(&mut buffer).await?;
                if read == 0 {
                    return Ok(());
                }
                to_client.lock().await.write_all(&buffer[..read]).await?;
            }
        }
    };
    let asks = async move {
        loop {
            let message = message(&mut from_client, true).await?;
            if has_setting(&message) {
                let ready = [b'Z', 0, 0, 0, 5, b'I'];
                let answer = [&refusal("ERROR")[..], &ready].concat();
                to_client.lock().await.write_all(&answer).await?;
            } else {
                to_server.write_all(&message).await?;
            }
        }
    };
    tokio::select! {
        over = answers => over,
        over = asks => over,
    }
}

/// No connection was made at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_look_after_its_clients_serves() {
    let database = cluster().database();
    let port = picky(cluster().port()).await;
    let flow = open(&format!("postgres://postgres@127.0.0.1:{port}/{database}")).await;
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send("a".into()).await.expect("it is sent");
    let mut consumer = flow.consumer("orders", "billing").await.expect("a group");
    next(&mut consumer).await.commit().await.expect("committed");
}

/// Where it can, it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_can_look_after_its_clients_does() {
    let database = cluster().database();
    let role = format!("checked_{database}");
    cluster().psql(&database, &format!("CREATE ROLE {role} SUPERUSER LOGIN"));
    let flow = open(&cluster().url_as(&role, &database)).await;
    // What a session has is seen in it alone: here by a trigger.
    cluster().psql(
        &database,
        "CREATE TABLE public.seen (interval text);
         CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
            INSERT INTO public.seen VALUES (current_setting('client_connection_check_interval'));
            RETURN NEW;
         END $$;
         CREATE TRIGGER see BEFORE INSERT ON flowstream.batches FOR EACH ROW
            EXECUTE FUNCTION public.see()",
    );
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send("a".into()).await.expect("it is sent");
    let seen = cluster().psql(&database, "SELECT DISTINCT interval FROM public.seen");
    assert_eq!(seen.trim(), "5s");
}
