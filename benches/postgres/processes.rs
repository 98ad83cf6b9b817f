//! Several processes that produce at once.

use std::time::Duration;

use crate::child::{Child, Role};
use crate::harness::{Bench, Limit};
use crate::server::{Database, Link, Server};
use crate::support::SIZE;
use crate::table::{Figure, Unit};

pub(crate) fn measure(bench: &mut Bench, server: &Server, link: Link) {
    for count in [2, 4, 8] {
        for is_shared in [true, false] {
            let places = if is_shared { "one" } else { "as many" };
            let name = format!("processes: {count} on {places}, flush each 1,000");
            if !bench.wants(&name) {
                continue;
            }
            let database = Database::new(server);
            let url = database.url(link);
            // Whoever opens first makes the schema; not in a window.
            let mut ours: Vec<Child> = (0..count)
                .map(|number| match is_shared {
                    true => Child::start(Role::Produce, &url, "s"),
                    false => Child::start(Role::Produce, &url, &format!("s{number}")),
                })
                .collect();
            let mut blobs: Vec<Child> = (0..count)
                .map(|_| Child::start(Role::Blobs, &url, ""))
                .collect();
            let window = bench.window;
            bench.measure(
                [Figure::new(name, link.name(), Unit::Rate(SIZE))],
                || [all(&mut ours, window)],
                vec![Limit::new("as many with blobs", || {
                    [all(&mut blobs, window)]
                })],
            );
        }
    }
}

/// All at once: messages a second, together.
fn all(children: &mut [Child], window: Duration) -> f64 {
    for child in &mut *children {
        child.tell(&window.as_millis().to_string());
    }
    children.iter_mut().map(Child::hear).sum()
}
