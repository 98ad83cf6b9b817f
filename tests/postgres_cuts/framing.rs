//! The proxy itself: it counts what a session says, from the request for TLS and the login on, and
//! breaks where it is told to.

use std::time::Duration;

use crate::postgres_support::proxy::{Cut, Direction, Fault, Passed, Place, Proxy, Tag};
use crate::rig::cluster;

/// psql in a session of its own, which logs in with SCRAM: what it printed, or why it failed.
async fn psql(proxy: &Proxy) -> Result<String, String> {
    let url = proxy.url_as("scram:secret", "postgres");
    let asked = move || cluster().try_psql_at(&url, "SELECT 1 + 1");
    tokio::task::spawn_blocking(asked).await.expect("it ends")
}

fn tags(passed: &[Passed]) -> Vec<Tag> {
    passed.iter().map(|passed| passed.tag).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_cut_into_its_messages() {
    cluster().role_with_password("scram", "secret", "scram-sha-256");
    let proxy = Proxy::start(cluster().port()).await;
    proxy.arm(None);
    assert_eq!(psql(&proxy).await.as_deref(), Ok("2\n"));
    // The last thing that psql says is not answered, so it may still be on its way.
    let ended = || proxy.seen().to_server.last().map(|it| it.tag) == Some(Tag::Typed(b'X'));
    while !ended() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let seen = proxy.seen();
    let letters = |letters: &str| letters.bytes().map(Tag::Typed).collect::<Vec<_>>();
    // Where TLS is refused, and a password is proved in two messages.
    let to_server = [vec![Tag::Encryption, Tag::Startup], letters("ppQX")].concat();
    assert_eq!(tags(&seen.to_server), to_server);
    let to_client = tags(&seen.to_client);
    assert_eq!(to_client[0], Tag::EncryptionAnswer);
    assert_eq!(to_client[1..5], letters("RRRR"));
    assert_eq!(to_client[to_client.len() - 6..], letters("KZTDCZ"));
    let statements: Vec<&str> = seen.statements.iter().map(|it| &*it.essence).collect();
    assert_eq!(statements, ["SELECT 1 + 1"]);

    // Wherever it breaks before the answer is whole, the client is told, and the next session works.
    let mut cuts = 0;
    for (direction, count) in [
        (Direction::ToServer, to_server.len() - 1),
        (Direction::ToClient, to_client.len() - 1),
    ] {
        for at in 0..count {
            for cut in [Cut::Reset, Cut::Finish] {
                let place = Place { step: 0, at };
                proxy.arm(Some(Fault::Cut(direction, place, cut)));
                let answer = psql(&proxy).await;
                let fired = proxy.seen().fired.expect("it comes so far");
                // Without TLS it tries once more if its request is not answered.
                let is_told = answer.is_err() || fired.tag == Some(Tag::Encryption);
                let is_of_tls = fired.tag == Some(Tag::EncryptionAnswer);
                assert!(
                    is_told || is_of_tls,
                    "{direction:?} {at} {cut:?}: {answer:?}"
                );
                proxy.heal();
                cuts += 1;
            }
        }
    }
    proxy.arm(None);
    assert_eq!(psql(&proxy).await.as_deref(), Ok("2\n"));
    println!("a session of psql was cut at {cuts} points");
}
