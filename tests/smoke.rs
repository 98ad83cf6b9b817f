use flowstream::*;
use futures::{SinkExt, StreamExt, TryStreamExt};
use std::time::Duration;

#[tokio::test]
async fn send_receive_commit() {
    let flow = flowstream::open("memory:").await.unwrap();
    let mut p = flow.producer("orders").await.unwrap();
    for i in 0..10 {
        p.feed(format!("m{i}").into()).await.unwrap();
    }
    SinkExt::<Message>::flush(&mut p).await.unwrap();
    let got = p
        .append([Message::new("x"), Message::new("y")])
        .await
        .unwrap();
    assert_eq!(got.offsets()[0].offsets, 10..12);
    let mut c = flow.consumer("orders", "billing").await.unwrap();
    for i in 0..12 {
        let d = c.try_next().await.unwrap().unwrap();
        assert_eq!(d.offset(), i);
        d.commit().await.unwrap();
    }
    let state = flow.group("orders", "billing").await.unwrap();
    assert_eq!(state[0].progress.position(), 12);
    p.send("z".into()).await.unwrap();
    let d = c.try_next().await.unwrap().unwrap();
    assert_eq!(d.offset(), 12);
    d.ack();
    c.control().shutdown().await;
    assert!(c.next().await.is_none());
    assert_eq!(
        flow.group("orders", "billing").await.unwrap()[0]
            .progress
            .position(),
        13
    );
    assert_eq!(
        flow.group("orders", "billing").await.unwrap()[0].owner,
        None
    );
}

#[tokio::test]
async fn forward_is_atomic_and_standby_takes_over() {
    let flow = flowstream::open("memory:").await.unwrap();
    let mut p = flow.producer("a").await.unwrap();
    for i in 0..1000 {
        p.feed(format!("m{i}").into()).await.unwrap();
    }
    SinkExt::<Message>::flush(&mut p).await.unwrap();
    let c = flow.consumer("a", "g").await.unwrap();
    let control = c.control();
    let out = flow.producer("b").await.unwrap();
    let f = tokio::spawn(c.map_ok(Delivery::into_message).forward(out));
    let mut c2 = flow.consumer("a", "g").await.unwrap();
    let mut r = flow.consumer("b", "g").await.unwrap();
    for i in 0..1000 {
        let d = r.try_next().await.unwrap().unwrap();
        assert_eq!(d.body(), &format!("m{i}"));
        d.ack();
    }
    let standby = tokio::spawn(async move {
        let d = c2.try_next().await.unwrap().unwrap();
        (d.offset(), d.epoch())
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    control.shutdown().await;
    f.await.unwrap().unwrap();
    p.send("late".into()).await.unwrap();
    assert_eq!(standby.await.unwrap(), (1000, 2));
}

#[tokio::test]
async fn buffer_unordered_and_holes() {
    let flow = flowstream::open("memory:").await.unwrap();
    let mut p = flow.producer("a").await.unwrap();
    for i in 0..5000 {
        p.feed(format!("m{i}").into()).await.unwrap();
    }
    SinkExt::<Message>::flush(&mut p).await.unwrap();
    let c = flow
        .consumer("a", "g")
        .redeliver_after(Duration::from_millis(20))
        .await
        .unwrap();
    let control = c.control();
    let n = std::sync::atomic::AtomicUsize::new(0);
    c.map_ok(|d| async {
        tokio::task::yield_now().await;
        if d.offset() % 7 == 0 && d.attempt() == 1 {
            drop(d);
            return Ok::<_, Error>(());
        }
        d.commit().await?;
        if n.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1 == 5000 {
            drop(control.shutdown());
        }
        Ok(())
    })
    .try_buffer_unordered(64)
    .try_for_each(|()| async { Ok(()) })
    .await
    .unwrap();
    control.shutdown().await;
    let s = &flow.group("a", "g").await.unwrap()[0];
    assert_eq!(s.progress, storage::Progress::at(5000));
}
