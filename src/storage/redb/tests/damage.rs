use std::fs;

use super::*;

const PAGE: usize = 4096;

/// A file with some of everything in it, and its bodies.
async fn sound(place: &Place) -> (Vec<u8>, Vec<String>) {
    let storage = place.storage().await;
    for batch in 0..60 {
        let body = format!("{batch}-").repeat(60);
        storage.append(append(&[&body, "b"])).await.unwrap();
    }
    let large = "large".repeat(4000);
    storage.append(append(&[&large])).await.unwrap();
    let group = group("billing");
    storage.create_group(&group, Start::Earliest).await.unwrap();
    storage.claim(claim(group, 1, None)).await.unwrap();
    let bodies = bodies(&storage).await.unwrap();
    storage.close().await.unwrap();
    (fs::read(place.path()).unwrap(), bodies)
}

/// What is in the damaged file, unless it is an error, which says that the file is damaged.
async fn look(place: &Place, damaged: &[u8]) -> Option<Vec<String>> {
    fs::write(place.path(), damaged).unwrap();
    match try_look(place).await {
        Ok(found) => Some(found),
        Err(error) => {
            let kinds = [ErrorKind::Data, ErrorKind::Unsupported];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            None
        }
    }
}

async fn try_look(place: &Place) -> Result<Vec<String>> {
    let storage = place.open().await?;
    let seen = storage.observe(&[group("billing")]).await?.remove(0);
    assert!(seen.is_some(), "the group is gone");
    bodies(&storage).await
}

#[tokio::test]
async fn a_flipped_byte_is_an_error_or_does_not_matter() {
    flip_bytes(Place::new()).await;
}

#[tokio::test]
async fn a_flipped_byte_in_a_large_file_is_an_error_or_does_not_matter() {
    flip_bytes(Place {
        is_trusting: true,
        ..Place::new()
    })
    .await;
}

async fn flip_bytes(place: Place) {
    let (file, expected) = sound(&place).await;
    let in_page = [0, 2, 7, 40, 2000];
    let pages = (1..file.len() / PAGE).flat_map(|page| in_page.map(|at| page * PAGE + at));
    let mut errors = 0;
    for at in (0..320).step_by(3).chain(pages) {
        let mut damaged = file.clone();
        damaged[at] ^= 0x24;
        match look(&place, &damaged).await {
            Some(found) => assert!(found == expected, "byte {at}: {} bodies", found.len()),
            None => errors += 1,
        }
    }
    assert!(errors > 20, "{errors}");
}

#[tokio::test]
async fn a_file_that_was_cut_off_is_an_error() {
    let place = Place::new();
    let (file, expected) = sound(&place).await;
    let cuts = (0..file.len())
        .step_by(PAGE)
        .chain([1, 9, 64, 320, file.len() - 1]);
    for len in cuts.filter(|len| *len > 0) {
        if let Some(found) = look(&place, &file[..len]).await {
            assert!(found == expected, "{len} bytes: {} bodies", found.len());
        }
    }
}

#[tokio::test]
async fn pages_that_are_another_zeroes_or_random_are_an_error_or_do_not_matter() {
    for is_trusting in [false, true] {
        let place = Place {
            is_trusting,
            ..Place::swift()
        };
        let (file, expected) = sound(&place).await;
        let mut random = crate::fuzzing::random::Random::new(1);
        let mut errors = 0;
        let pages = file.len() / PAGE;
        for page in 0..pages {
            let other = random.below(pages) * PAGE;
            let noise = random.bytes(PAGE);
            for content in [&file[other..other + PAGE], &[0; PAGE], &noise] {
                let mut damaged = file.clone();
                damaged[page * PAGE..][..PAGE].copy_from_slice(content);
                match look(&place, &damaged).await {
                    Some(found) => {
                        assert!(found == expected, "page {page}: {} bodies", found.len())
                    }
                    None => errors += 1,
                }
            }
        }
        println!("{pages} pages, {errors} errors");
        assert!(errors > 20, "{errors}");
    }
}

/// A stream or group that is not found would be made anew.
#[tokio::test]
async fn a_name_that_changed_is_an_error_and_not_something_that_is_missing() {
    let place = Place {
        is_trusting: true,
        ..Place::swift()
    };
    let (file, expected) = sound(&place).await;
    let mut errors = 0;
    for name in [&b"orders"[..], b"billing"] {
        let places = file.windows(name.len()).enumerate();
        let places: Vec<usize> = places
            .filter(|(_, at)| *at == name)
            .map(|(at, _)| at)
            .collect();
        for at in places.into_iter().flat_map(|at| at..at + name.len()) {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            match look(&place, &damaged).await {
                // A page that is not in use.
                Some(found) => assert!(found == expected, "{} bodies", found.len()),
                None => errors += 1,
            }
        }
    }
    assert!(errors >= 13, "{errors}");
}
