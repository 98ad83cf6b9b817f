//! No statement is compiled before it runs. The server does that where a plan seems dear, and it
//! seems so for any look into a large log, though the index finds what it wants at once: then
//! compiling takes twenty times as long as the look.

#![cfg(feature = "postgres")]

use std::sync::Arc;

use flowstream::Message;
use flowstream::storage::{
    Append, Claim, Group, Id, Lease, Name, Partition, PostgresOptions, PostgresStorage, Ranges,
    Read, RecordsBuilder, Row, Start, Storage,
};
use postgres_support::Cluster;

mod postgres_support;

/// Calls that read and write the log, as a service makes them all the time.
async fn work(url: &str) {
    let storage = PostgresStorage::connect(url, PostgresOptions::new()).await;
    let storage = storage.expect("the storage opens");
    let stream = Name::new("orders").unwrap();
    storage.create_stream(&stream, Some(1)).await.unwrap();
    let partition = Partition { stream, index: 0 };
    let group = Group {
        partition: partition.clone(),
        name: Name::new("billing").unwrap(),
    };
    storage.create_group(&group, Start::Earliest).await.unwrap();
    let owner = Id::random();
    let claim = Claim {
        group: group.clone(),
        owner,
        over: None,
    };
    let epoch = storage.claim(claim).await.unwrap().epoch;
    let messages = [Message::new("x")];
    let records: RecordsBuilder = messages.iter().collect();
    let append = Append {
        id: Id::random(),
        after: None,
        rows: vec![Row {
            partition: partition.clone(),
            records: records.build().unwrap(),
        }],
        commits: vec![],
    };
    storage.append(Arc::new(append)).await.unwrap();
    let read = Read {
        partition: partition.clone(),
        from: 0,
        max_bytes: 1 << 20,
        group: Some(group.name.clone()),
    };
    assert_eq!(storage.read(read).await.unwrap().batches.len(), 1);
    storage.bounds(&[partition]).await.unwrap();
    storage.observe(std::slice::from_ref(&group)).await.unwrap();
    let lease = Lease {
        group,
        owner,
        epoch,
    };
    let done = Ranges::from(0..1).into();
    storage.commit(&lease, &done).await.unwrap();
    storage.release(&lease).await.unwrap();
    storage.close().await.unwrap();
}

/// How many plans a program had, and how many of them were compiled.
fn plans(log: &str, program: &str) -> (usize, usize) {
    let mut plans: Vec<String> = Vec::new();
    for line in log.lines() {
        match line.strip_prefix('\t') {
            Some(more) => plans.last_mut().into_iter().for_each(|plan| *plan += more),
            None => plans.push(line.to_owned()),
        }
    }
    plans.retain(|plan| plan.starts_with(&format!("{program}|")) && plan.contains(" plan:"));
    let compiled = plans.iter().filter(|plan| plan.contains("JIT:")).count();
    (plans.len(), compiled)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_is_compiled_before_it_runs() {
    let cluster = Cluster::start_with(&[
        // All plans seem dear.
        ("jit_above_cost", "0"),
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_nested_statements", "on"),
        ("log_line_prefix", "%a|"),
    ]);
    if cluster.psql("postgres", "SELECT pg_jit_available()").trim() != "t" {
        println!("this server cannot compile");
        return;
    }
    let database = cluster.database();
    work(&cluster.url(&database)).await;
    let log = || std::fs::read_to_string(cluster.directory().join("log")).expect("the log");
    let (plans_of_ours, compiled) = plans(&log(), "flowstream");
    assert!(plans_of_ours > 10, "{plans_of_ours} plans");
    assert_eq!(compiled, 0, "of {plans_of_ours} plans");

    // Somebody else's are: the server would have done so.
    cluster.psql(&database, "SELECT count(*) FROM flowstream.batches");
    assert!(plans(&log(), "psql").1 > 0);
}
