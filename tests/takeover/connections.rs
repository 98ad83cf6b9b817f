//! Connections that the server ends, of owners that live.

use crate::cluster;
use crate::process_support::connections::{Whose, kill};
use crate::process_support::trials::World;

#[test]
fn an_owner_whose_listener_is_killed_goes_on() {
    println!(
        "{:?}",
        kill(&World::new(cluster()), Whose::Listener, 5).unwrap()
    );
}

#[test]
fn owner_and_standby_go_on_when_all_their_connections_are_killed() {
    println!(
        "{:?}",
        kill(&World::new(cluster()), Whose::All, 10).unwrap()
    );
}
