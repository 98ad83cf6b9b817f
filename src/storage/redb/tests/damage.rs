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

/// What is in the damaged file, unless it is an error.
async fn look(place: &Place, damaged: &[u8]) -> Option<Vec<String>> {
    fs::write(place.path(), damaged).unwrap();
    let storage = place.open().await.ok()?;
    storage.observe(&[group("billing")]).await.ok()?.remove(0)?;
    bodies(&storage).await.ok()
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
