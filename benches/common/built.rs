//! A storage as it is, without what makes batches of messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowstream::Message;
use flowstream::storage::{Append, Id, Name, Partition, Records, RecordsBuilder, Row, Storage};
use tokio::runtime::Runtime;

use super::support::run;

/// Appends a batch a call, one call after the other.
pub(crate) struct Built {
    storage: Arc<dyn Storage>,
    partition: Partition,
}

impl Built {
    /// In a stream of its own.
    pub(crate) fn new(runtime: &Runtime, storage: impl Storage + 'static) -> Self {
        let storage = Arc::new(storage);
        let stream = Name::new("s").expect("a name");
        let (created, name) = (storage.clone(), stream.clone());
        run(runtime, async move {
            let created = created.create_stream(&name, Some(1)).await;
            created.expect("a stream");
        });
        Self {
            storage,
            partition: Partition { stream, index: 0 },
        }
    }

    /// Messages a second.
    pub(crate) fn append(&self, runtime: &Runtime, batch: &[Message], window: Duration) -> f64 {
        let (storage, partition) = (self.storage.clone(), self.partition.clone());
        let builder: RecordsBuilder = batch.iter().collect();
        let (records, batch) = (builder.build().expect("a batch"), batch.len());
        run(runtime, async move {
            let began = Instant::now();
            let mut sent = 0;
            while began.elapsed() < window {
                let append = append_of(&partition, records.clone());
                storage.append(Arc::new(append)).await.expect("an append");
                sent += batch;
            }
            sent as f64 / began.elapsed().as_secs_f64()
        })
    }
}

/// An append of one batch, on its own.
pub(crate) fn append_of(partition: &Partition, records: Records) -> Append {
    Append {
        id: Id::random(),
        after: None,
        rows: vec![Row {
            partition: partition.clone(),
            records,
        }],
        commits: vec![],
    }
}
