//! Wall clocks that jump by an hour, forward and back, every 300 ms.

use crate::postgres_support::Cluster;
use crate::process_support::faketime::FakeTime;
use crate::process_support::trials::{Trials, Way, World};
use crate::{LONG, SHORT, cluster, run};

/// The clock that the library was given.
#[test]
fn the_clock_of_the_library_may_jump() {
    let mut trials = Trials::new(Way::Kill, LONG);
    trials.clock_jumps = true;
    run(&trials);
}

/// The clock of the system, as the processes see it.
#[test]
fn the_clock_of_the_clients_may_jump() {
    let Some(time) = FakeTime::new() else {
        return println!("libfaketime is not installed: skipped");
    };
    time.while_it_jumps(|| {
        for (way, lease) in [(Way::Kill, LONG), (Way::Pause, SHORT), (Way::Stop, LONG)] {
            let mut trials = Trials::new(way, lease);
            trials.environment = time.environment();
            // One that is over between two jumps has shown nothing: again.
            let mut jumps_back = 0;
            for _ in 0..10 {
                let world = World::new(cluster());
                let outcome = trials.run(&world).unwrap();
                println!("{way:?}: {:?}", outcome.sum);
                jumps_back = outcome.jumps_back;
                if jumps_back > 0 {
                    break;
                }
            }
            assert!(jumps_back > 0, "the clock jumped");
        }
    });
}

#[test]
fn the_clock_of_the_server_may_jump() {
    let Some(time) = FakeTime::new() else {
        return println!("libfaketime is not installed: skipped");
    };
    let server = Cluster::start_under(&time.environment(), &[("max_connections", "200")]);
    let world = World::new(&server);
    time.while_it_jumps(|| {
        for way in [Way::Kill, Way::Pause, Way::Stop] {
            let outcome = Trials::new(way, SHORT).run(&world).unwrap();
            println!("{way:?}: {:?}", outcome.sum);
        }
    });
    let ask = |sql: &str| server.psql(&world.database, sql).trim().to_owned();
    let went_back = ask("SELECT count(*) FROM (
             SELECT appended_at < lag(appended_at) OVER (PARTITION BY stream_id ORDER BY base_offset)
             FROM flowstream.batches) b (back) WHERE back");
    assert_eq!(went_back, "0", "the time of appends never goes back");
    let jumps = ask("SELECT count(*) FROM (
             SELECT at < lag(at) OVER (ORDER BY n) FROM audit.writes) w (back) WHERE back");
    assert_ne!(jumps, "0", "the clock jumped");
}
