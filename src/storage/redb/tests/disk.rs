use super::*;

/// Appends while the disk fails, again until the outcome is known, and compares the log with the
/// answers.
async fn append_on_a_failing_disk(after: u64, count: u64) -> bool {
    let (place, faults) = Place::frail();
    let storage = place.storage().await;
    storage.append(append(&["before"])).await.unwrap();
    faults.fail(after, count);
    let during = append(&["during"]);
    let first = storage.append(during.clone()).await;
    let has_failed = first.is_err();
    if let Err(error) = &first {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    faults.fail(0, 0);
    let mut expected = vec!["before"];
    match first {
        Ok(_) => expected.push("during"),
        Err(error) if error.in_doubt() => {
            let again = storage.append(during).await.unwrap();
            assert_eq!(again.bases(), Some(vec![1]));
            expected.push("during");
        }
        Err(_) => {}
    }
    expected.push("after");
    let base = expected.len() as u64 - 1;
    let appended = storage.append(append(&["after"])).await.unwrap();
    assert_eq!(appended.bases(), Some(vec![base]), "{after} {count}");
    assert_eq!(bodies(&storage).await.unwrap(), expected, "{after} {count}");
    storage.close().await.unwrap();
    let storage = place.open().await.unwrap();
    assert_eq!(bodies(&storage).await.unwrap(), expected, "{after} {count}");
    has_failed
}

#[tokio::test]
async fn whatever_fails_the_answers_are_true() {
    let mut failures = 0;
    for count in [1, 2, 3, 1000] {
        for after in 0..12 {
            failures += u32::from(append_on_a_failing_disk(after, count).await);
        }
    }
    assert!(failures > 10, "{failures}");
}

#[tokio::test]
async fn a_disk_that_stays_broken_is_an_error_until_it_is_well() {
    let (place, faults) = Place::frail();
    let storage = place.storage().await;
    faults.fail(0, u64::MAX);
    for _ in 0..3 {
        let error = storage.append(append(&["a"])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let group = group("billing");
        let error = storage
            .create_group(&group, Start::Latest)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    faults.fail(0, 0);
    assert!(bounds(&storage).await.is_empty());
    storage.append(append(&["b"])).await.unwrap();
}
