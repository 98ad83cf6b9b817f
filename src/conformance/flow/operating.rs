//! What operators see of groups, and do to them while they work.

use std::sync::Arc;

use super::rig::{Rig, of};
use crate::admin::GroupInfo;
use crate::conformance::Harness;
use crate::conformance::support::{assert_fenced, assert_kind};
use crate::consumer::Status;
use crate::error::ErrorKind;
use crate::storage::{Progress, Start};

pub(crate) async fn groups_are_listed_with_what_they_have_to_do(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..3).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let _idle = rig.takes("orders", "shipping").await;
    let mut held = rig.expect(&mut consumer, 0..3).await;
    let last = held.pop().expect("three");
    let epoch = last.epoch();
    last.commit().await.expect("a commit");
    held.remove(0).commit().await.expect("a commit");
    let infos = rig.groups("orders").await.expect("the groups");
    let names: Vec<_> = infos.iter().map(|info| info.group.clone()).collect();
    assert_eq!(names, [of("orders", "billing"), of("orders", "shipping")]);
    let [billing, shipping] = &infos[..] else {
        panic!("two groups: {infos:?}");
    };
    assert_eq!(
        (billing.state.epoch, billing.state.owner.is_some()),
        (epoch, true)
    );
    assert_eq!((billing.state.position(), billing.state.lag()), (1, 1));
    assert_eq!((shipping.state.owner, shipping.state.lag()), (None, 3));
    assert!(billing.pending_since.is_some() && shipping.pending_since.is_some());
    assert!(billing.pending_since >= shipping.pending_since);

    held.remove(0).commit().await.expect("a commit");
    let infos = rig.groups("orders").await.expect("the groups");
    assert_eq!((infos[0].state.lag(), infos[0].pending_since), (0, None));
    let all = rig.groups(None).await.expect("all groups");
    let listed = |infos: &[GroupInfo]| {
        let group = |info: &GroupInfo| (info.group.clone(), info.state.lag());
        infos.iter().map(group).collect::<Vec<_>>()
    };
    assert_eq!(listed(&all), listed(&infos));
}

pub(crate) async fn an_evicted_consumer_stands_by_and_goes_on(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..4).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let mut held = rig.expect(&mut consumer, 0..2).await;
    held.remove(0).commit().await.expect("a commit");
    let late = held.remove(0);
    let epoch = late.epoch();
    rig.evict("orders", "billing").await.expect("an eviction");
    let fenced = late.commit().await;
    assert_fenced(&fenced, "a commit of the lease that was taken away");
    let next = rig.next(&mut consumer).await;
    assert_eq!(next.offset(), 1, "from the position on");
    assert!(next.epoch() > epoch, "under a new lease");
    next.commit().await.expect("a commit");
    rig.expect(&mut consumer, 2..4).await;
    let unknown = rig.evict("orders", "unknown").await;
    assert_kind(&unknown, ErrorKind::NotFound, "the eviction of no group");
}

pub(crate) async fn a_reset_group_goes_on_from_there(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..6).await;
    let mut consumer = rig.takes("orders", "billing").await;
    for delivery in rig.expect(&mut consumer, 0..4).await {
        delivery.commit().await.expect("a commit");
    }
    let refused = rig.reset("orders", "billing", Start::Earliest).await;
    assert_kind(&refused, ErrorKind::Invalid, "the reset of an active group");
    assert_eq!(rig.state("orders", "billing").await.position(), 4);

    let forced = rig.reset("orders", "billing", Start::Offset(1)).force();
    let states = forced.await.expect("a reset by force");
    assert_eq!(states.len(), 1);
    assert_eq!(states[0].progress, Progress::at(1));
    let epoch = states[0].epoch;
    // What was read ahead may come until the consumer notices.
    let mut next = rig.next(&mut consumer).await;
    while next.epoch() < epoch {
        next = rig.next(&mut consumer).await;
    }
    assert_eq!(next.offset(), 1);
    next.commit().await.expect("a commit");
    for delivery in rig.expect(&mut consumer, 2..6).await {
        delivery.commit().await.expect("a commit");
    }

    let control = consumer.control();
    rig.shut_down(&control).await;
    assert_eq!(control.status(), Status::Closed);
    let reset = rig.reset("orders", "billing", Start::Earliest).partition(0);
    reset.await.expect("nobody is active");
    let mut consumer = rig.takes("orders", "billing").await;
    rig.expect(&mut consumer, 0..6).await;
    let missing = rig.reset("orders", "billing", Start::Latest).partition(1);
    assert_kind(
        &missing.await,
        ErrorKind::NotFound,
        "a partition that is not there",
    );
}
