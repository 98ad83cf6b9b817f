//! The private clusters that other tests run on.

#![cfg(feature = "postgres")]

use postgres_support::{Cluster, Stop};

mod postgres_support;

#[test]
fn a_cluster_keeps_its_data_over_a_stop_and_goes_with_its_handle() {
    let cluster = Cluster::start_new();
    assert_eq!(cluster.psql("postgres", "SHOW fsync").trim(), "on");
    let database = cluster.database();
    cluster.psql(&database, "CREATE TABLE t AS SELECT 7 AS n");
    for how in [Stop::Fast, Stop::Immediate] {
        cluster.stop(how);
        cluster.start();
        assert_eq!(cluster.psql(&database, "SELECT n FROM t").trim(), "7");
    }
    let (directory, pid) = (cluster.directory().to_owned(), cluster.pid());
    assert!(pid.is_some());
    drop(cluster);
    assert!(!directory.exists());
}

#[test]
fn a_standby_follows_and_takes_over() {
    let cluster = Cluster::start_new();
    let standby = cluster.standby();
    cluster.psql("postgres", "CREATE TABLE t AS SELECT 7 AS n");
    cluster.stop(Stop::Fast);
    standby.promote();
    assert_eq!(standby.psql("postgres", "SELECT n FROM t").trim(), "7");
    standby.psql("postgres", "INSERT INTO t VALUES (8)");
}
