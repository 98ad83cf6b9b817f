//! One active consumer a group, standbys that take over, and a storage that is left alone.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowstream::{Consumer, Delivery, ErrorKind, Message, Status};
use futures::{FutureExt, SinkExt};
use support::*;

const LEASE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

/// Another consumer, as another process would have it.
async fn elsewhere(world: &World) -> Consumer {
    let flow = open(&world.faulty, &world.clock, |options| {
        options.retry_for(Duration::ZERO)
    });
    flow.consumer("orders", "billing")
        .lease(LEASE)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_clean_stop_hands_over_at_once() {
    for drops in [false, true] {
        let world = world().await;
        world.fill("orders", 3).await;
        let (mut active, mut standby) = (elsewhere(&world).await, elsewhere(&world).await);
        let delivery = next(&mut active).await;
        let (control, mut coming) = (standby.control(), Box::pin(standby.next()));
        assert!(stays_pending(&mut coming).await);
        assert_eq!(control.status(), Status::Standby);
        delivery.commit().await.unwrap();
        if drops {
            drop(active);
        } else {
            soon("the shutdown", active.control().shutdown()).await;
        }
        let delivery = soon("the hand-over", coming).await.unwrap().unwrap();
        assert_eq!(
            (delivery.offset(), delivery.attempt(), delivery.epoch()),
            (1, 1, 2)
        );
        assert_eq!(control.status(), Status::Active { epoch: 2 });
    }
}

#[tokio::test]
async fn a_standby_takes_over_after_a_whole_lease_and_never_earlier() {
    let world = world().await;
    world.fill("orders", 0).await;
    let mut standby = elsewhere(&world).await;
    let dead = world.take_over("orders", "billing").await;
    let mut coming = Box::pin(standby.next());
    assert!(stays_pending(&mut coming).await);
    // Idle: it may stand still for ever.
    world.pass(HOUR * 10).await;
    assert!(stays_pending(&mut coming).await);
    let writes = world.faulty.writes();
    world.fill("orders", 2).await;
    quiet().await;
    world.pass_in(LEASE - Duration::from_millis(1), 100).await;
    assert!(stays_pending(&mut coming).await);
    assert_eq!(world.group("orders", "billing").await.epoch, dead.epoch);
    world.pass(Duration::from_millis(2)).await;
    let first = soon("the takeover", coming).await.unwrap().unwrap();
    assert_eq!(
        (first.offset(), first.attempt(), first.epoch()),
        (0, 2, dead.epoch + 1)
    );
    assert_eq!(next(&mut standby).await.attempt(), 1);
    assert!(world.faulty.writes() - writes <= 4);
}

#[tokio::test]
async fn a_sign_of_life_starts_the_lease_anew() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut standby = elsewhere(&world).await;
    let alive = world.take_over("orders", "billing").await;
    let mut coming = Box::pin(standby.next());
    for _ in 0..10 {
        world.pass(LEASE * 2 / 3).await;
        let renewal = flowstream::storage::Verdicts::default();
        world.faulty.inner().commit(&alive, &renewal).await.unwrap();
        assert!(stays_pending(&mut coming).await);
    }
    world.pass(LEASE * 2).await;
    soon("the takeover", coming).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_look_that_takes_long_does_not_shorten_the_lease() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut standby = elsewhere(&world).await;
    let alive = world.take_over("orders", "billing").await;
    world.faulty.times(Call::Claim, Fault::Hold, 1);
    let mut coming = Box::pin(standby.next());
    assert!(stays_pending(&mut coming).await);
    world.pass(LEASE / 2).await;
    // What the look shows was written long after it began.
    let renewal = flowstream::storage::Verdicts::default();
    world.faulty.inner().commit(&alive, &renewal).await.unwrap();
    world.faulty.let_go();
    world.pass_in(LEASE - Duration::from_millis(1), 100).await;
    assert!(stays_pending(&mut coming).await);
    world.pass(LEASE).await;
    soon("the takeover", coming).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_group_calls_nothing() {
    let world = world().await;
    world.fill("orders", 3).await;
    let (mut active, mut standby) = (elsewhere(&world).await, elsewhere(&world).await);
    for _ in 0..3 {
        next(&mut active).await.commit().await.unwrap();
    }
    let (mut one, mut two) = (Box::pin(active.next()), Box::pin(standby.next()));
    assert!(stays_pending(&mut one).await && stays_pending(&mut two).await);
    world.pass(LEASE * 3).await;
    let calls = world.faulty.total();
    world.pass_in(HOUR * 100, 500).await;
    assert_eq!(world.faulty.total(), calls);
    // And it goes on at once, under the same lease.
    world.fill("orders", 1).await;
    let delivery = soon("the message", one).await.unwrap().unwrap();
    assert_eq!(delivery.epoch(), 1);
    soon("the commit", delivery.commit()).await.unwrap();
    // The standby heard of that message, too.
    let mut one = Box::pin(active.next());
    assert!(stays_pending(&mut one).await && stays_pending(&mut two).await);
    world.pass(LEASE * 3).await;
    let calls = world.faulty.total();
    world.pass_in(HOUR, 500).await;
    assert_eq!(world.faulty.total(), calls);
}

#[tokio::test]
async fn the_owner_renews_from_half_the_lease_on_while_something_is_pending() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut active = elsewhere(&world).await;
    let held = next(&mut active).await;
    world.pass_in(LEASE * 49 / 100, 50).await;
    assert_eq!(world.faulty.count(Call::Commit), 0);
    world.pass_in(LEASE * 2 / 100, 5).await;
    assert_eq!(world.faulty.count(Call::Commit), 1);
    world.pass_in(LEASE * 4, 400).await;
    let renewals = world.faulty.count(Call::Commit);
    assert!(
        (7..=10).contains(&renewals),
        "{renewals} renewals in four leases and a half"
    );
    assert_eq!(world.group("orders", "billing").await.epoch, 1);
    held.commit().await.unwrap();
    let writes = world.faulty.writes();
    world.pass(HOUR).await;
    assert_eq!(world.faulty.writes(), writes);
}

#[tokio::test]
async fn steady_commits_need_no_renewal() {
    let world = world().await;
    let mut active = elsewhere(&world).await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    for count in 0..40 {
        producer.send(count.to_string().into()).await.unwrap();
        let delivery = next(&mut active).await;
        world.pass(LEASE / 4).await;
        delivery.commit().await.unwrap();
        assert_eq!(world.faulty.count(Call::Commit), count + 1);
    }
    assert_eq!(world.faulty.count(Call::Claim), 1);
}

#[tokio::test]
async fn a_live_owner_keeps_its_lease_from_a_standby() {
    let world = world().await;
    world.fill("orders", 1).await;
    let (mut active, mut standby) = (elsewhere(&world).await, elsewhere(&world).await);
    let held = next(&mut active).await;
    let mut coming = Box::pin(standby.next());
    assert!(stays_pending(&mut coming).await);
    // It handles one message for less than `max_processing`, which is many leases.
    world.pass_in(LEASE * 8, 400).await;
    assert!(stays_pending(&mut coming).await);
    held.commit().await.unwrap();
    assert_eq!(world.group("orders", "billing").await.epoch, 1);
}

#[tokio::test]
async fn a_stuck_handler_loses_the_lease_and_comes_back_as_a_standby() {
    let world = world().await;
    world.fill("orders", 2).await;
    let build = || {
        world
            .flow
            .consumer("orders", "billing")
            .lease(LEASE)
            .max_processing(LEASE * 3)
    };
    let (mut stuck, mut standby) = (build().await.unwrap(), build().await.unwrap());
    let held = next(&mut stuck).await;
    let other = standby.control();
    let mut coming = Box::pin(standby.next());
    assert!(stays_pending(&mut coming).await);
    world.pass_in(LEASE * 2, 100).await;
    assert!(
        stays_pending(&mut coming).await,
        "not before max_processing"
    );
    world.pass_in(LEASE * 5, 200).await;
    let taken = soon("the takeover", coming).await.unwrap().unwrap();
    assert_eq!((taken.offset(), taken.attempt(), taken.epoch()), (0, 2, 2));
    assert_eq!(stuck.control().status(), Status::Idle);
    assert!(
        soon("an answer", held.commit())
            .await
            .unwrap_err()
            .is_fenced()
    );
    assert_eq!(world.position("orders", "billing").await, 0);
    // It polls again: what it prefetched is gone, and it stands by.
    let control = stuck.control();
    let mut coming = Box::pin(stuck.next());
    assert!(stays_pending(&mut coming).await);
    assert_eq!(control.status(), Status::Standby);
    taken.commit().await.unwrap();
    soon("the shutdown", other.shutdown()).await;
    let delivery = soon("the lease back", coming).await.unwrap().unwrap();
    assert_eq!((delivery.offset(), delivery.epoch()), (1, 3));
}

#[tokio::test]
async fn a_lease_that_was_given_up_is_free_once_its_consumer_leaves() {
    let world = world().await;
    world.fill("orders", 1).await;
    let build = world.flow.consumer("orders", "billing");
    let mut stuck = build.lease(LEASE).max_processing(LEASE).await.unwrap();
    let held = next(&mut stuck).await;
    let control = stuck.control();
    world.pass_in(LEASE * 3, 100).await;
    assert_eq!(control.status(), Status::Idle);
    let mut other = elsewhere(&world).await;
    let mut coming = Box::pin(other.next());
    assert!(stays_pending(&mut coming).await, "nobody gave it back");
    drop(stuck);
    let taken = soon("the lease", coming).await.unwrap().unwrap();
    assert_eq!((taken.offset(), taken.epoch()), (0, 2));
    assert!(
        soon("an answer", held.commit())
            .await
            .unwrap_err()
            .is_fenced()
    );
}

#[tokio::test]
async fn one_that_was_fenced_notices_drops_all_and_goes_on() {
    let world = world().await;
    world.fill("orders", 10).await;
    let mut active = elsewhere(&world).await;
    let (first, second) = (next(&mut active).await, next(&mut active).await);
    let third = next(&mut active).await;
    let control = active.control();
    let usurper = world.take_over("orders", "billing").await;
    first.ack();
    assert!(
        soon("an answer", second.commit())
            .await
            .unwrap_err()
            .is_fenced()
    );
    let mut coming = Box::pin(active.next());
    assert!(
        stays_pending(&mut coming).await,
        "what was prefetched is gone"
    );
    assert_eq!(control.status(), Status::Standby);
    assert!(
        soon("an answer", third.commit())
            .await
            .unwrap_err()
            .is_fenced()
    );
    assert_eq!(world.position("orders", "billing").await, 0);
    world.faulty.inner().release(&usurper).await.unwrap();
    let delivery = soon("the lease back", coming).await.unwrap().unwrap();
    assert_eq!(
        (delivery.offset(), delivery.epoch()),
        (0, usurper.epoch + 1)
    );
}

#[tokio::test]
async fn an_owner_that_is_fenced_while_idle_notices_at_the_next_message() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut active = elsewhere(&world).await;
    next(&mut active).await.commit().await.unwrap();
    let mut coming = Box::pin(active.next());
    assert!(stays_pending(&mut coming).await);
    let usurper = world.take_over("orders", "billing").await;
    world.fill("orders", 1).await;
    assert!(
        stays_pending(&mut coming).await,
        "nothing is handed out under a lost lease"
    );
    world.faulty.inner().release(&usurper).await.unwrap();
    let delivery = soon("the message", coming).await.unwrap().unwrap();
    assert_eq!((delivery.offset(), delivery.epoch()), (1, 3));
}

#[tokio::test]
async fn relayed_messages_of_a_lost_lease_are_dropped_without_harm_to_others() {
    let world = world().await;
    world.fill("orders", 2).await;
    let mut active = world.flow.consumer("orders", "billing").await.unwrap();
    let mut producer = world.flow.producer("out").await.unwrap();
    producer.feed("before".into()).await.unwrap();
    producer
        .feed(next(&mut active).await.into_message())
        .await
        .unwrap();
    producer.feed("between".into()).await.unwrap();
    producer
        .feed(next(&mut active).await.into_message())
        .await
        .unwrap();
    producer.feed("after".into()).await.unwrap();
    let usurper = world.take_over("orders", "billing").await;
    soon("the flush", producer.flush()).await.unwrap();
    assert_eq!(world.bodies("out").await, ["before", "between", "after"]);
    assert_eq!(world.position("orders", "billing").await, 0);
    world.faulty.inner().release(&usurper).await.unwrap();
    for offset in 0..2 {
        assert_eq!(next(&mut active).await.offset(), offset);
    }
}

#[tokio::test]
async fn an_append_of_a_lost_lease_fails_as_a_whole_and_gives_back() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut active = world.flow.consumer("orders", "billing").await.unwrap();
    let mut producer = world.flow.producer("out").await.unwrap();
    let relayed = next(&mut active).await.into_message();
    world.take_over("orders", "billing").await;
    let error = producer
        .append([Message::new("plain"), relayed])
        .await
        .unwrap_err();
    assert!(error.is_fenced() && !error.in_doubt());
    assert_eq!(error.unsent.len(), 2);
    assert_eq!(world.bodies("out").await, [""; 0]);
    producer.send("goes on".into()).await.unwrap();
}

#[tokio::test]
async fn an_owner_that_is_cut_off_lapses_before_a_standby_claims() {
    let world = world().await;
    world.fill("orders", 3).await;
    let cut = Faulty::new(world.faulty.inner().clone());
    let flow = open(&cut, &world.clock, |options| options);
    let mut owner = flow
        .consumer("orders", "billing")
        .lease(LEASE)
        .await
        .unwrap();
    let mut standby = elsewhere(&world).await;
    let held = next(&mut owner).await;
    let (first, second) = (owner.control(), standby.control());
    let mut coming = Box::pin(standby.next());
    assert!(stays_pending(&mut coming).await);
    // It renews once or twice, then it is cut off.
    world.pass_in(LEASE, 100).await;
    cut.set_all(Fault::Fail);
    let mut changes = Vec::new();
    for _ in 0..300 {
        world.pass_in(LEASE / 100, 1).await;
        let _ = (&mut coming)
            .now_or_never()
            .map(|delivery| changes.push(delivery));
        let active = (first.status().is_active(), second.status().is_active());
        assert_ne!(active, (true, true), "two at once");
        if active.1 {
            break;
        }
    }
    assert!(second.status().is_active());
    assert!(
        soon("an answer", held.commit())
            .await
            .unwrap_err()
            .is_fenced()
    );
    // What it prefetched under the old lease is not handed out; that it is cut off may come out.
    while let Some(next) = owner.next().now_or_never() {
        assert!(next.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_message_that_kills_its_consumers_has_a_growing_attempt() {
    let world = world().await;
    world.fill("orders", 1).await;
    // The first of them dies before it has said anything.
    elsewhere(&world).await;
    world.take_over("orders", "billing").await;
    for attempt in 2..6 {
        let cut = Faulty::new(world.faulty.inner().clone());
        let flow = open(&cut, &world.clock, |options| {
            options.retry_for(Duration::ZERO)
        });
        let mut victim = flow
            .consumer("orders", "billing")
            .lease(LEASE)
            .await
            .unwrap();
        let mut coming = Box::pin(victim.next());
        assert!(stays_pending(&mut coming).await);
        world.pass(LEASE * 2).await;
        let delivery = soon("the message", coming).await.unwrap().unwrap();
        assert_eq!(
            (delivery.attempt(), delivery.epoch()),
            (attempt, u64::from(attempt))
        );
        // It dies: nothing that it still says reaches the storage.
        cut.set_all(Fault::Fail);
        drop(victim);
        quiet().await;
    }
}

#[tokio::test]
async fn each_partition_has_a_lease_of_its_own() {
    let world = world().await;
    world.flow.create_stream("wide", 4).await.unwrap();
    let mut one = world.flow.consumer("wide", "billing").await.unwrap();
    assert!(one.next().now_or_never().is_none());
    quiet().await;
    assert!(
        one.control()
            .partitions()
            .into_iter()
            .all(Status::is_active)
    );
    let mut two = world.flow.consumer("wide", "billing").await.unwrap();
    assert!(two.next().now_or_never().is_none());
    quiet().await;
    assert!(
        two.control()
            .partitions()
            .into_iter()
            .all(|it| it == Status::Standby)
    );
    soon("the shutdown", one.control().shutdown()).await;
    quiet().await;
    assert!(
        two.control()
            .partitions()
            .into_iter()
            .all(Status::is_active)
    );
}

#[tokio::test]
async fn in_a_storm_of_consumers_every_message_is_done_and_an_epoch_has_one_owner() {
    for seed in 0..10 {
        let world = world().await;
        world.fill("orders", 300).await;
        let owners = Arc::new(Mutex::new(BTreeMap::<u64, usize>::new()));
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let flow = open(&world.faulty, &world.clock, |options| options);
                let owners = owners.clone();
                tokio::spawn(async move {
                    let mut random = Random::new(seed * 100 + task as u64);
                    for round in 0.. {
                        let mut consumer = flow.consumer("orders", "billing").await.unwrap();
                        let me = round * 10 + task;
                        for _ in 0..1 + random.below(20) {
                            let position = flow.group("orders", "billing").await.unwrap().remove(0);
                            if position.progress.position() == 300 {
                                return;
                            }
                            let Some(delivery) = poll_at_most(20, consumer.next()).await else {
                                break;
                            };
                            let delivery = delivery.unwrap().unwrap();
                            let owner =
                                *owners.lock().unwrap().entry(delivery.epoch()).or_insert(me);
                            assert_eq!(owner, me, "two owners of epoch {}", delivery.epoch());
                            match random.below(4) {
                                0 => delivery.ack(),
                                1 => drop(delivery.commit().now_or_never()),
                                2 => drop(delivery),
                                _ => drop(delivery.commit().await),
                            }
                        }
                        if random.below(2) == 0 {
                            consumer.control().shutdown().await;
                        }
                    }
                })
            })
            .collect();
        let mut epoch = 0;
        let mut random = Random::new(seed);
        loop {
            world.pass_in(Duration::from_millis(100), 1).await;
            let state = world.group("orders", "billing").await;
            assert!(state.epoch >= epoch, "epochs grow");
            epoch = state.epoch;
            if state.progress.position() == 300 {
                break;
            }
            if random.below(10) == 0 {
                let usurper = world.take_over("orders", "billing").await;
                quiet().await;
                world.faulty.inner().release(&usurper).await.unwrap();
            }
        }
        for task in tasks {
            soon("the end of a consumer", task).await.unwrap();
        }
    }
}

/// Longer than it may take over one message, it only polls in the first half, and only says what is
/// done in the second; one message is held all the time.
#[tokio::test]
async fn polls_and_verdicts_are_signs_of_life() {
    let world = world().await;
    world.fill("orders", 12).await;
    let builder = world.flow.consumer("orders", "billing").lease(LEASE);
    let mut active = builder.max_processing(LEASE * 3).await.unwrap();
    let control = active.control();
    let held = next(&mut active).await;
    let mut others = Vec::new();
    take_all(&mut active, |delivery| others.push(delivery)).await;
    for _ in 0..10 {
        world.pass(LEASE).await;
        assert!(active.next().now_or_never().is_none());
    }
    assert_eq!(control.status(), Status::Active { epoch: 1 }, "it polled");
    for other in others {
        world.pass(LEASE).await;
        other.ack();
    }
    assert_eq!(control.status(), Status::Active { epoch: 1 }, "it acked");
    assert_eq!(control.partitions(), [Status::Active { epoch: 1 }]);
    world.pass(LEASE * 5).await;
    assert_eq!(control.status(), Status::Idle, "neither of both");
    let refused = soon("an answer", held.commit()).await.unwrap_err();
    assert!(refused.is_fenced());
}

#[tokio::test]
async fn a_lease_is_kept_for_a_message_that_came_after_it_was_claimed() {
    let world = world().await;
    let (mut active, mut standby) = (elsewhere(&world).await, elsewhere(&world).await);
    assert!(active.next().now_or_never().is_none());
    quiet().await;
    let mut coming = Box::pin(standby.next());
    assert!(stays_pending(&mut coming).await);
    world.pass(HOUR).await;
    world.fill("orders", 1).await;
    let held = next(&mut active).await;
    world.pass_in(LEASE * 8, 400).await;
    assert!(stays_pending(&mut coming).await);
    assert!(world.faulty.count(Call::Commit) >= 7, "renewals");
    soon("the commit", held.commit()).await.unwrap();
    assert_eq!(world.group("orders", "billing").await.epoch, 1);
}

#[tokio::test]
async fn a_drain_may_take_longer_than_a_message() {
    let world = world().await;
    world.fill("orders", 1).await;
    let builder = world.flow.consumer("orders", "billing").lease(LEASE);
    let builder = builder.max_processing(LEASE * 2).drain(LEASE * 20);
    let mut active = builder.await.unwrap();
    let held = next(&mut active).await;
    let stopped = active.control().shutdown();
    world.pass_in(LEASE * 8, 200).await;
    soon("the commit", held.commit()).await.unwrap();
    soon("the shutdown", stopped).await;
    assert_eq!(world.position("orders", "billing").await, 1);
}

#[tokio::test]
async fn one_that_moves_again_in_time_keeps_its_lease() {
    let world = world().await;
    world.fill("orders", 1).await;
    let builder = world.flow.consumer("orders", "billing").lease(LEASE);
    let mut active = builder.max_processing(LEASE / 4).await.unwrap();
    let held = next(&mut active).await;
    // Renewed at the half, for the poll that took the message, and not once more.
    world.pass_in(LEASE * 11 / 10, 110).await;
    assert_eq!(world.faulty.count(Call::Commit), 1, "it seems to be stuck");
    assert!(active.next().now_or_never().is_none());
    world.pass_in(LEASE * 2 / 10, 60).await;
    assert_eq!(world.faulty.count(Call::Commit), 2, "the renewal");
    held.commit().await.unwrap();
}

/// It looks now and then, so that it knows of the owner's last write soon after that.
#[tokio::test]
async fn a_takeover_comes_soon_after_a_lease_without_a_write() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut standby = elsewhere(&world).await;
    let owner = world.take_over("orders", "billing").await;
    let mut coming = Box::pin(standby.next());
    assert!(stays_pending(&mut coming).await);
    world.pass(LEASE / 10).await;
    let renewal = flowstream::storage::Verdicts::default();
    let inner = world.faulty.inner();
    inner.commit(&owner, &renewal).await.unwrap();
    world.pass_in(LEASE - Duration::from_millis(1), 100).await;
    assert!(stays_pending(&mut coming).await);
    world.pass_in(LEASE / 5, 100).await;
    assert!(!stays_pending(&mut coming).await);
}

/// Loses all notifications, so that somebody has to look.
struct Deaf;

impl Dice for Deaf {
    fn throw(&self, _: Call) -> Option<Fault> {
        None
    }

    fn begins(&self, _: Call, _: Option<Fault>) -> u64 {
        0
    }

    fn applies(&self, _: u64) {}

    fn loses(&self, _: &flowstream::storage::Notification) -> bool {
        true
    }
}

async fn deaf() -> World {
    let clock = flowstream::ManualClock::new();
    let storage = memory(clock.clone());
    let faulty = Faulty::with_dice(storage, Arc::new(Deaf));
    let flow = open(&faulty, &clock, |options| options.retry_for(Duration::ZERO));
    World {
        clock,
        faulty,
        flow,
        dir: None,
    }
}

#[tokio::test]
async fn what_nobody_tells_is_found_by_looking_also_beside_what_is_gone() {
    const LOOK: Duration = Duration::from_secs(1);
    for (partitions, kind, looks) in [
        (2, ErrorKind::NotFound, 3),
        (2, ErrorKind::Unavailable, 1),
        (1, ErrorKind::NotFound, 1),
    ] {
        let world = deaf().await;
        world
            .flow
            .create_stream("orders", partitions)
            .await
            .unwrap();
        let mut consumer = elsewhere(&world).await;
        assert_eq!(take_all(&mut consumer, drop).await, 0);
        let mut producer = world.flow.producer("orders").await.unwrap();
        for key in 0..20 {
            let message = Message::new("m").with_key(key.to_string());
            producer.append(message).await.unwrap();
        }
        assert_eq!(take_all(&mut consumer, drop).await, 0);
        let (bounds, fault) = (world.faulty.count(Call::Bounds), Fault::Break(kind));
        world.faulty.times(Call::Bounds, fault, 1);
        world.pass(LOOK).await;
        let found = take_all(&mut consumer, Delivery::ack).await;
        assert_eq!(found, if looks == 3 { 20 } else { 0 }, "{kind:?}");
        assert_eq!(world.faulty.count(Call::Bounds), bounds + looks);
        world.pass(LOOK).await;
        assert_eq!(found + take_all(&mut consumer, Delivery::ack).await, 20);
    }
}

/// Storages that are there after one another: the next has as many messages in `orders`.
async fn successor(world: &World, count: u64) -> Arc<dyn flowstream::storage::Storage> {
    let storage = memory(world.clock.clone());
    let options = flowstream::Options::new().clock(world.clock.clone());
    let flow = options.open_storage(storage.clone());
    fill(&flow, "orders", count).await;
    drop(flow.consumer("orders", "billing").await.unwrap());
    storage
}

#[tokio::test]
async fn an_idle_consumer_learns_of_a_storage_that_went_back_by_looking() {
    let world = deaf().await;
    let mut active = elsewhere(&world).await;
    assert_eq!(take_all(&mut active, drop).await, 0);
    world.fill("orders", 3).await;
    world.pass(LEASE / 10).await;
    assert_eq!(take_all(&mut active, Delivery::ack).await, 3);
    world.pass(LEASE * 2).await;
    world.faulty.fail_over(successor(&world, 1).await);
    let mut coming = Box::pin(active.next());
    assert!(stays_pending(&mut coming).await, "nobody tells");
    world.pass(LEASE / 10).await;
    let error = soon("the loss", coming).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    world.pass(LEASE).await;
    assert_eq!(take_all(&mut active, Delivery::ack).await, 1);
}

/// The same offset, another message.
#[tokio::test]
async fn a_loss_is_told_also_where_another_message_has_the_first_offset() {
    for at_once in [true, false] {
        let world = world().await;
        world.fill("orders", 1).await;
        let mut active = elsewhere(&world).await;
        let held = next(&mut active).await;
        if !at_once {
            world.clock.advance(Duration::from_millis(1));
        }
        let next_one = successor(&world, u64::from(!at_once)).await;
        world.faulty.fail_over(next_one);
        assert!(soon("an answer", held.commit()).await.is_err());
        let told = soon("the loss", active.next()).await.unwrap();
        assert_eq!(told.unwrap_err().kind(), ErrorKind::Data);
    }
}

/// Of messages that are not there any more it is told, and looks once.
#[tokio::test]
async fn what_was_told_and_is_gone_is_not_looked_for_in_a_tight_loop() {
    let world = world().await;
    let first = world.faulty.inner().clone();
    let options = flowstream::Options::new().clock(world.clock.clone());
    let before = options.open_storage(first);
    fill(&before, "orders", 1).await;
    world.faulty.fail_over(successor(&world, 1).await);
    let mut active = elsewhere(&world).await;
    next(&mut active).await.commit().await.unwrap();
    let mut coming = Box::pin(active.next());
    assert!(stays_pending(&mut coming).await);
    let reads = world.faulty.count(Call::Read);
    fill(&before, "orders", 1).await;
    assert!(stays_pending(&mut coming).await);
    quiet().await;
    let reads = world.faulty.count(Call::Read) - reads;
    assert!((1..5).contains(&reads), "{reads} reads");
}

#[tokio::test]
async fn a_lease_has_at_least_ten_milliseconds() {
    let world = world().await;
    for (micros, is_accepted) in [(9_999, false), (10_000, true)] {
        let consumer = world.flow.consumer("orders", "billing");
        let built = consumer.lease(Duration::from_micros(micros)).await;
        assert_eq!(built.is_ok(), is_accepted, "{micros} µs");
    }
}
