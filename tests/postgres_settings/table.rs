//! Each setting, by each way, and what came of it.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};

use crate::settings::{self, Setting};
use crate::work::{self, Way};
use crate::{cluster, database};

/// How many settings are tried at once: most of the time something waits.
const AT_ONCE: usize = 4;
/// One that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);

struct Row {
    name: String,
    outcomes: Vec<Result<Duration, String>>,
}

/// Once most of these did not open at all, or gave errors that nobody could do anything about.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_works_under_settings_of_others() {
    let settings = settings::all();
    assert!(settings.len() >= 50, "{} settings", settings.len());
    let began = Instant::now();
    let rows = stream::iter(settings).map(|setting| tokio::spawn(row(setting)));
    let rows: Vec<Row> = rows
        .buffered(AT_ONCE)
        .map(|row| row.expect("errors are told, also panics"))
        .collect()
        .await;
    print(&rows, began.elapsed());
    let failed: Vec<String> = rows.iter().flat_map(Row::failures).collect();
    assert!(
        failed.is_empty(),
        "under these settings something fails:\n{}",
        failed.join("\n")
    );
}

async fn row(setting: Setting) -> Row {
    let (name, stream) = (setting.name.clone(), setting.stream);
    let prepared = tokio::task::spawn_blocking(move || prepare(&setting)).await;
    let database = match prepared {
        Ok(database) => database,
        Err(panic) => {
            let outcomes = Way::ALL.map(|_| Err(format!("it cannot be set: {panic}")));
            let outcomes = outcomes.into();
            return Row { name, outcomes };
        }
    };
    let mut outcomes = Vec::new();
    for way in Way::ALL {
        let began = Instant::now();
        let database = database.clone();
        let trying = tokio::spawn(async move { work::work(way, &database, stream).await });
        let outcome = match tokio::time::timeout(PATIENCE, trying).await {
            Ok(Ok(Ok(()))) => Ok(began.elapsed()),
            Ok(Ok(Err(error))) => Err(format!("{error:#}")),
            Ok(Err(panic)) => Err(panic.to_string()),
            Err(_) => Err(format!("it is not over after {PATIENCE:?}")),
        };
        outcomes.push(outcome);
    }
    Row { name, outcomes }
}

/// The database, with what is set.
fn prepare(setting: &Setting) -> String {
    let database = database(&setting.database);
    for sql in &setting.sql {
        cluster().psql(&database, &sql.replace("{database}", &database));
    }
    database
}

impl Row {
    fn failures(&self) -> Vec<String> {
        let ways = Way::ALL.iter().zip(&self.outcomes);
        let failed = ways.filter_map(|(way, outcome)| {
            let error = outcome.as_ref().err()?;
            Some(format!("{}, {}: {error}", self.name, way.name()))
        });
        failed.collect()
    }
}

/// In milliseconds each.
fn print(rows: &[Row], took: Duration) {
    let width = rows
        .iter()
        .map(|row| row.name.chars().count())
        .max()
        .unwrap_or(0);
    let heads = Way::ALL.map(|way| format!("{:>8}", way.name()));
    println!("{:width$} {}", "ms", heads.join(" "));
    for row in rows {
        let outcomes = row.outcomes.iter().map(|outcome| match outcome {
            Ok(took) => format!("{:>8}", took.as_millis()),
            Err(_) => format!("{:>8}", "FAILED"),
        });
        println!(
            "{:width$} {}",
            row.name,
            outcomes.collect::<Vec<_>>().join(" ")
        );
    }
    println!("{} settings in {took:.0?}", rows.len());
}
