//! In each call of the storage that somebody makes, the task that waits for it dies: its driver panics,
//! or its runtime ends; before the call was applied, after, and while it is under way.
//!
//! Two runtimes and a clock that stands still are driven in turns, on one thread, so the same happens
//! each time. Others of the same process wait on the second runtime for what the first one does.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use flowstream::{Clock, Flowstream, Options};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::task::ArcWake;
use tokio::runtime::Runtime;

use crate::runtime;
use crate::support::*;

/// What the task dies of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Panic,
    RuntimeEnd,
}

/// One death.
#[derive(Debug, Clone, Copy)]
struct Cell {
    call: Call,
    /// So many of these calls pass first.
    nth: usize,
    moment: Moment,
    death: Death,
}

/// A process, and what it stands on.
#[derive(Clone)]
pub(crate) struct Scene {
    world: Arc<World>,
    /// All is closed, so that others are refused.
    closes: Arc<AtomicBool>,
}

/// What somebody does, to its end, whatever dies meanwhile; and what it was told.
pub(crate) struct Act(BoxFuture<'static, Told>);

impl Act {
    pub(crate) fn new(act: impl Future<Output = Told> + Send + 'static) -> Self {
        Self(Box::pin(act))
    }
}

/// What somebody was told of the messages that it gave away, by their bodies. Whatever else is in these
/// streams was not given away.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) streams: &'static [&'static str],
    /// In the log, in this order.
    pub(crate) written: Vec<String>,
    /// In doubt, and not sent again.
    pub(crate) in_doubt: Vec<String>,
}

/// Plays an act once for each call that it makes, each moment of the call and each death; a panic of
/// this names all that went wrong.
pub(crate) fn in_each_call(prepare: impl Fn(Scene) -> BoxFuture<'static, Act>) {
    in_each_call_of([()], |scene, ()| prepare(scene));
}

/// The same for several variants of an act.
pub(crate) fn in_each_call_of<V: Copy + fmt::Debug>(
    variants: impl IntoIterator<Item = V>,
    prepare: impl Fn(Scene, V) -> BoxFuture<'static, Act>,
) {
    let (mut failures, mut plays) = (Vec::new(), 0);
    for variant in variants {
        let prepare = |scene| prepare(scene, variant);
        for cell in cells(&play(&prepare, None)) {
            plays += 1;
            let played = catch_unwind(AssertUnwindSafe(|| play(&prepare, Some(cell))));
            if let Err(panic) = played {
                failures.push(format!("{variant:?}, {cell:?}: {}", text_of(&*panic)));
            }
        }
    }
    assert!(plays > 0, "no call was made");
    let (count, failures) = (failures.len(), failures.join("\n"));
    assert!(count == 0, "{count} of {plays} went wrong:\n{failures}");
}

/// Of calls that are made often, the first two and the last.
fn cells(calls: &[(Call, usize)]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (call, count) in calls.iter().copied() {
        let mut some = vec![0, 1, count.saturating_sub(1)];
        some.retain(|nth| *nth < count);
        some.dedup();
        for nth in some {
            for moment in MOMENTS {
                cells.extend([Death::Panic, Death::RuntimeEnd].map(|death| Cell {
                    call,
                    nth,
                    moment,
                    death,
                }));
            }
        }
    }
    cells
}

/// Gives how often each call was made.
fn play(
    prepare: &impl Fn(Scene) -> BoxFuture<'static, Act>,
    cell: Option<Cell>,
) -> Vec<(Call, usize)> {
    let first = runtime();
    let (scene, act) = first.block_on(async {
        let scene = Scene {
            world: Arc::new(world().await),
            closes: Arc::default(),
        };
        let act = prepare(scene.clone()).await;
        (scene, act)
    });
    let before = scene.counts();
    if let Some(Cell {
        call, nth, moment, ..
    }) = cell
    {
        scene.faulty().after(call, nth, Fault::Catch(moment), 1);
    }
    let mut stage = Stage {
        scene,
        first: Some(first),
        second: runtime(),
        act: Doing::new(act.0),
        others: Vec::new(),
    };
    stage.play(cell);
    stage.check();
    let after = stage.scene.counts();
    let counts = before.iter().zip(&after);
    counts
        .map(|((call, before), (_, after))| (*call, after - before))
        .collect()
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    let text = owned.or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic")
}

struct Stage {
    scene: Scene,
    /// The one that may end.
    first: Option<Runtime>,
    second: Runtime,
    act: Doing<Told>,
    others: Vec<Doing<()>>,
}

impl Stage {
    /// No more than this passes until all have come to an end.
    const STEPS: u32 = 1_200;
    const STEP: Duration = Duration::from_millis(250);

    fn play(&mut self, cell: Option<Cell>) {
        let mut left = cell;
        for _ in 0..Self::STEPS {
            self.step();
            if self.scene.faulty().caught() > 0
                && let Some(cell) = left.take()
            {
                self.others = self.scene.others();
                self.step();
                self.strike(cell.death);
            } else if self.is_over() {
                break;
            } else {
                self.scene.world.clock.advance(Self::STEP);
            }
        }
        assert!(left.is_none(), "that call is not made");
        assert!(self.act.is_over(), "it waits for ever");
        assert!(self.is_over(), "another one waits for ever");
    }

    fn strike(&mut self, death: Death) {
        match death {
            Death::Panic => self.scene.faulty().strike(),
            Death::RuntimeEnd => {
                self.first = None;
                self.act.moves();
                // What the act itself waits for has not died.
                self.scene.faulty().spare();
            }
        }
    }

    /// All go on until they have nothing to do.
    fn step(&mut self) {
        for _ in 0..2 {
            if let Some(first) = &self.first {
                first.block_on(rest(|| self.act.go_on()));
            }
            self.second.block_on(rest(|| {
                let acts = self.first.is_none() && self.act.go_on();
                self.others
                    .iter_mut()
                    .fold(acts, |any, it| it.go_on() || any)
            }));
        }
    }

    fn is_over(&self) -> bool {
        self.act.is_over() && self.others.iter().all(Doing::is_over)
    }

    /// What is in the log is what was told, also after what was under way has landed.
    fn check(&mut self) {
        let told = self.act.take();
        let scene = self.scene.clone();
        self.second.block_on(async {
            told.check(&scene).await;
            scene.faulty().land().await;
            quiet().await;
            told.check(&scene).await;
        });
    }
}

async fn rest(mut go_on: impl FnMut() -> bool) {
    loop {
        let went_on = go_on();
        quiet().await;
        if !went_on {
            return;
        }
    }
}

/// Something that goes on only once it is woken, wherever it is polled.
struct Doing<T> {
    future: BoxFuture<'static, T>,
    output: Option<T>,
    is_over: bool,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.store(true, Ordering::SeqCst);
    }
}

impl<T> Doing<T> {
    fn new(future: BoxFuture<'static, T>) -> Self {
        Self {
            future,
            output: None,
            is_over: false,
            woken: Arc::new(Woken(AtomicBool::new(true))),
        }
    }

    /// Another runtime polls it from now on, and begins so.
    fn moves(&self) {
        self.woken.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was polled.
    fn go_on(&mut self) -> bool {
        if self.is_over || !self.woken.0.swap(false, Ordering::SeqCst) {
            return false;
        }
        let waker = futures::task::waker(self.woken.clone());
        if let Poll::Ready(output) = self.future.poll_unpin(&mut Context::from_waker(&waker)) {
            self.output = Some(output);
            self.is_over = true;
        }
        true
    }

    fn is_over(&self) -> bool {
        self.is_over
    }

    fn take(&mut self) -> T {
        self.output.take().expect("it is over")
    }
}

impl Scene {
    pub(crate) fn flow(&self) -> &Flowstream {
        &self.world.flow
    }

    pub(crate) fn faulty(&self) -> &Faulty {
        &self.world.faulty
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// The act closes all.
    pub(crate) fn closes(&self) {
        self.closes.store(true, Ordering::SeqCst);
    }

    /// Past all faults.
    pub(crate) fn calm(&self) -> Flowstream {
        let calm = Options::new().clock(self.world.clock.clone());
        calm.open_storage(self.faulty().inner().clone())
    }

    /// Until the next step.
    pub(crate) async fn sleep(&self) {
        let clock = &self.world.clock;
        clock.sleep_until(clock.now() + Stage::STEP).await;
    }

    /// Whether the storage has it done.
    pub(crate) async fn is_done(&self, stream: &str, group: &str, offset: u64) -> bool {
        let state = self.calm().group(stream, group).await.unwrap().remove(0);
        offset < state.position() || state.progress.acked().contains(offset)
    }

    fn counts(&self) -> Vec<(Call, usize)> {
        let count = |call| (call, self.faulty().count(call));
        ALL.map(count).to_vec()
    }

    /// Others of the same process, who need what the first runtime does for all. None of them has a part
    /// in what died, so none of them is told of it.
    fn others(&self) -> Vec<Doing<()>> {
        if self.closes.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let others: [BoxFuture<'static, ()>; 3] = [
            Box::pin(send(self.clone())),
            Box::pin(append(self.clone())),
            Box::pin(receive(self.clone())),
        ];
        others.into_iter().map(Doing::new).collect()
    }
}

const OTHERS: &str = "others";

async fn send(scene: Scene) {
    use futures::SinkExt;
    let mut producer = scene.flow().producer(OTHERS).await.unwrap();
    let sent = producer.send("sent".into()).await;
    sent.expect("the send of somebody else");
}

async fn append(scene: Scene) {
    let mut producer = scene.flow().producer(OTHERS).await.unwrap();
    let appended = producer.append(["appended".into()]).await;
    appended.expect("the append of somebody else");
}

/// Both of those above, each of them once.
async fn receive(scene: Scene) {
    let mut consumer = scene.flow().consumer(OTHERS, "others").await.unwrap();
    let mut bodies = BTreeSet::new();
    while bodies.len() < 2 {
        let delivery = consumer.next().await.expect("a delivery to somebody else");
        let delivery = delivery.expect("a delivery to somebody else");
        assert!(bodies.insert(text(delivery.message())), "twice");
        let committed = delivery.commit().await;
        committed.expect("the commit of somebody else");
    }
    consumer.control().shutdown().await;
}

impl Told {
    async fn check(&self, scene: &Scene) {
        let mut found = Vec::new();
        for stream in self.streams {
            for bodies in all_bodies(&scene.calm(), stream).await {
                self.check_order(&bodies);
                found.extend(bodies);
            }
        }
        let count = |body| found.iter().filter(|it| *it == body).count();
        for body in &self.written {
            assert_eq!(count(body), 1, "{body} was said to be written: {found:?}");
        }
        for body in &self.in_doubt {
            assert!(
                count(body) <= 1,
                "{body} is there more than once: {found:?}"
            );
        }
        let is_known = |body: &String| self.written.contains(body) || self.in_doubt.contains(body);
        let unknown = found.iter().find(|body| !is_known(body));
        assert_eq!(unknown, None, "it was said not to be written: {found:?}");
    }

    fn check_order(&self, partition: &[String]) {
        let place = |body| self.written.iter().position(|it| it == body);
        let places: Vec<usize> = partition.iter().filter_map(place).collect();
        assert!(places.is_sorted(), "out of order: {partition:?}");
    }
}

/// Of each partition of a stream; none if it is not there.
pub(crate) async fn all_bodies(flow: &Flowstream, stream: &str) -> Vec<Vec<String>> {
    let Ok(partitions) = flow.bounds(stream).await else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for partition in 0..partitions.len() {
        all.push(bodies(flow, stream, partition as u32).await);
    }
    all
}
