//! A server that speaks TLS, and one that asks for it.

use std::fs;
use std::path::Path;
use std::process::Command;

use flowstream::{ErrorKind, Result};
use futures::SinkExt;
use postgres_support::Cluster;

#[path = "../../postgres_support/mod.rs"]
mod postgres_support;

/// A server with a certificate that it signed itself, which takes nobody without TLS.
fn cluster() -> Cluster {
    let cluster = Cluster::start_new();
    let certificate = cluster.directory().join("server.crt");
    let key = cluster.directory().join("server.key");
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    let made = openssl.output().expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    for path in [&certificate, &key] {
        own(path, cluster.directory());
    }
    for (name, value) in [
        ("ssl_cert_file", certificate.display().to_string()),
        ("ssl_key_file", key.display().to_string()),
        ("ssl", "on".to_owned()),
    ] {
        cluster.psql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
    }
    let hba = "local all all trust\nhostssl all tls_role 127.0.0.1/32 scram-sha-256\n\
               hostssl all postgres 127.0.0.1/32 trust\n";
    let file = cluster.psql("postgres", "SHOW hba_file");
    fs::write(file.trim(), hba).expect("who may connect");
    cluster.psql(
        "postgres",
        "CREATE ROLE tls_role LOGIN PASSWORD 'hunter2'; GRANT CREATE ON DATABASE postgres TO tls_role",
    );
    cluster.stop(postgres_support::Stop::Fast);
    cluster.start();
    cluster
}

/// Of who owns the directory, and only theirs to read: the server insists on that.
fn own(path: &Path, directory: &Path) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let of = fs::metadata(directory).expect("a directory");
    chown(path, Some(of.uid()), Some(of.gid())).expect("another owner");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("fewer rights");
}

async fn send(url: &str) -> Result<()> {
    let flow = flowstream::open(url).await?;
    flow.producer("orders").await?.send("a".into()).await?;
    let mut consumer = flow.consumer("orders", "billing").await?;
    let delivery = consumer.try_next().await?.expect("a delivery");
    delivery.commit().await?;
    consumer.control().shutdown().await;
    flow.close().await
}

#[tokio::test]
async fn sslmode_means_what_it_says() {
    let cluster = cluster();
    let certificate = cluster.directory().join("server.crt");
    let root = format!("sslrootcert={}", certificate.display());
    let at = |host: &str, settings: &str| {
        let port = cluster.port();
        format!("postgres://tls_role:hunter2@{host}:{port}/postgres?{settings}")
    };
    for url in [
        at("127.0.0.1", "sslmode=require"),
        at("127.0.0.1", "sslmode=prefer"),
        at("127.0.0.1", &format!("sslmode=verify-ca&{root}")),
        at("localhost", &format!("sslmode=verify-full&{root}")),
    ] {
        send(&url)
            .await
            .unwrap_or_else(|error| panic!("{url}: {error:?}"));
    }
    for (url, says) in [
        // Nobody vouches for the certificate; it is another's; the server wants TLS.
        (at("localhost", "sslmode=verify-full"), "certificate"),
        (
            at("127.0.0.1", &format!("sslmode=verify-full&{root}")),
            "certificate",
        ),
        (at("127.0.0.1", "sslmode=disable"), "refuses the login"),
    ] {
        let error = send(&url).await.expect_err(&url);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}: {error:?}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(says), "{url}: {shown}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("tls_role"),
            "{shown}"
        );
    }
    let plain = Cluster::start_new();
    let url = format!("{}?sslmode=require", plain.url("postgres"));
    let error = send(&url).await.expect_err("no TLS there");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
}
