//! Connections that are refused for what they are told at their beginning.

use std::time::Duration;

use flowstream::storage::PostgresOptions;
use flowstream::{Error, ErrorKind, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{bouncer, cluster, database};

/// What was wrong stays wrong: whoever tried again would do so for this long.
const FOR_EVER: Duration = Duration::from_secs(100_000);

/// What opening says.
async fn refusal(url: &str, options: PostgresOptions) -> Error {
    let opening = Options::new().postgres(options).retry_for(FOR_EVER);
    let opening = tokio::time::timeout(Duration::from_secs(600), opening.open(url));
    let opened = opening.await.expect("it is not tried again");
    opened.expect_err("it does not open")
}

/// Refuses everybody with this: a URL that leads there.
async fn refuses(code: &'static str, message: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(refuse(client, code, message));
        }
    });
    format!("postgres://me@127.0.0.1:{port}/shop")
}

async fn refuse(mut client: TcpStream, code: &str, message: &str) -> std::io::Result<()> {
    let len = client.read_u32().await?;
    let mut parameters = vec![0; len as usize - size_of::<u32>()];
    client.read_exact(&mut parameters).await?;
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
    client.write_u8(b'E').await?;
    client
        .write_u32((fields.len() + size_of::<u32>()) as u32)
        .await?;
    client.write_all(fields.as_bytes()).await?;
    client.shutdown().await
}

/// It was tried again for as long as the budget allowed, as if the server were away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_takes_no_settings_is_told_apart_from_a_server_that_is_away() {
    for (code, message) in [
        ("08P01", "unsupported startup parameter: options"),
        (
            "08P01",
            "unsupported startup parameter in options: lock_timeout",
        ),
        (
            "0A000",
            "Feature not supported: RDS Proxy currently doesn't support command-line options.",
        ),
    ] {
        let error = refusal(&refuses(code, message).await, PostgresOptions::new()).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{message}: {error}");
        assert!(error.to_string().contains("pooled(true)"), "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    let Some(bouncer) = bouncer() else {
        eprintln!("pgbouncer is not installed: skipped");
        return;
    };
    let url = bouncer.url(&database(""));
    let error = refusal(&url, PostgresOptions::new()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("pooled(true)"), "{error}");
    // What the URL has is refused as well.
    let url = format!("{url}?options=-c%20lock_timeout%3D1s");
    let error = refusal(&url, PostgresOptions::new().pooled(true)).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("options"), "{error}");
}

/// pgbouncer refuses what drivers say of floating point numbers, unless it is told to ignore that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_as_it_comes_is_told_nothing_that_it_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let url = format!("postgres://me@127.0.0.1:{port}/shop");
    let opening = tokio::spawn(async move {
        let options = PostgresOptions::new().pooled(true);
        let options = Options::new().postgres(options).retry_for(Duration::ZERO);
        options.open(&url).await.map(drop)
    });
    let (mut client, _) = listener.accept().await.expect("a connection");
    let len = client.read_u32().await.expect("a length");
    let mut parameters = vec![0; len as usize - size_of::<u32>()];
    client
        .read_exact(&mut parameters)
        .await
        .expect("parameters");
    let parameters = String::from_utf8_lossy(&parameters[4..]).into_owned();
    let names: Vec<&str> = parameters.split('\0').step_by(2).collect();
    drop(client);
    opening.await.unwrap().expect_err("nobody is there");
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        // Those that pgbouncer knows.
        let known = [
            "user",
            "database",
            "client_encoding",
            "DateStyle",
            "TimeZone",
            "application_name",
        ];
        assert!(known.contains(&name), "{name}");
    }
}

/// It was called a defect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parameter_that_the_server_does_not_know_is_named() {
    let url = cluster().url(&database(""));
    for (parameter, named) in [
        ("no_such_parameter%3D1", "no_such_parameter"),
        ("lock_timeout%3Dsoon", "lock_timeout"),
        ("wal_level%3Dminimal", "wal_level"),
    ] {
        let url = format!("{url}?options=-c%20{parameter}");
        let error = refusal(&url, PostgresOptions::new()).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}
