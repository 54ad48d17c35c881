//! People over HTTP, against the real binary with real networks: who was seen, where, how many, who
//! looks like a picture; and that nothing is left of those who are erased.
//!
//! Two cameras show the same video of PETS09-S2L1, calibrated by the truth's own places, so that both
//! must say the same of everybody.

use std::path::Path;

use mtmc_models::testing::shared_video;
use serde_json::{Value, json};
use sqlx::Row as _;

use super::http::{self, Form, Response};
use super::place::Place;
use super::server::{Server, TASKS, wait};

const PEOPLE: &str = "/api/v1/people";
/// An environment, `pets`, of the cameras `left` and `right`; with an encoder, if people's looks are
/// wanted.
fn place(looks: bool) -> Option<Place> {
    let video = shared_video("data/vtest-pets09-s2l1/vtest.avi")?;
    let mut place = Place::new();
    place.add_detector()?;
    if looks {
        place.add_encoder()?;
    }
    place.calibrate(&["left", "right"])?;
    let mut environment = "id = \"pets\"\n\
        [homography]\ndata_dir = \"calibrations\"\n\
        [map]\nvalid_area = [[-40.0, -40.0], [40.0, -40.0], [40.0, 40.0], [-40.0, 40.0]]\n\
        [[links]]\ncameras = [\"left\", \"right\"]\noverlap = true\n"
        .to_string();
    for camera in ["left", "right"] {
        let source = video.display();
        environment += &format!("[[cameras]]\nid = \"{camera}\"\nsource = '{source}'\n");
    }
    place.add_environment("pets.toml", &environment);
    Some(place)
}

fn search(server: &Server, query: &str, kind: &str, body: &[u8]) -> Response {
    let path = format!("{PEOPLE}/search{query}");
    server.send("POST", &path, &[("Content-Type", kind)], body)
}

/// All that is found in the store of a person: vector and picture.
fn stored(data: &Path, global_id: i64) -> Option<[Vec<u8>; 2]> {
    let path = data.join("store.sqlite");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let address = format!("sqlite://{}?mode=ro", path.display());
        let pool = sqlx::SqlitePool::connect(&address).await.unwrap();
        let sql = "SELECT vector, crop FROM people WHERE global_id = $1 \
                   AND vector IS NOT NULL AND crop IS NOT NULL";
        let row = sqlx::query(sql).bind(global_id).fetch_optional(&pool);
        let row = row.await.unwrap()?;
        pool.close().await;
        Some([row.get(0), row.get(1)])
    })
}

fn ids(list: &Value) -> Vec<i64> {
    let people = list["people"].as_array().unwrap();
    people
        .iter()
        .map(|p| p["global_id"].as_i64().unwrap())
        .collect()
}

fn detail(response: &Response, status: u16) -> String {
    assert_eq!(response.status, status, "{}", response.text());
    let kind = response.header("content-type").unwrap();
    assert_eq!(kind, "application/problem+json");
    response.json()["detail"].as_str().unwrap().to_string()
}

#[test]
fn people_are_listed_followed_counted_and_found() {
    let Some(place) = place(true) else { return };
    let service = place.serve();
    let task = service.start_task(&json!({"environment_id": "pets", "max_frames": 60}));
    service.wait_for_end(&task);
    let list = service.json(PEOPLE);
    let all = ids(&list);
    assert!(all.len() > 3 && list["count"] == all.len(), "{list}");
    assert!(all.is_sorted_by(|a, b| a > b), "newest first: {all:?}");

    // Page by page they are the same.
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = service.json(&format!("{PEOPLE}?limit=2{cursor}"));
        paged.extend(ids(&page));
        match page["next_cursor"].as_i64() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, all);
    let none = service.json(&format!("{PEOPLE}?environment_id=elsewhere"));
    assert_eq!(none["count"], 0);
    let past = service.json(&format!("{PEOPLE}?to=2020-01-01T00:00:00Z"));
    assert_eq!(past["count"], 0);
    detail(&service.get(&format!("{PEOPLE}?limit=0")), 422);
    detail(&service.get(&format!("{PEOPLE}?from=yesterday")), 400);

    journeys(&service, &all);
    merged_people(&service, &all);
    counts(&service, &all);
    searches(&service, &all);
}

fn journeys(service: &Server, all: &[i64]) {
    let mut in_both = 0;
    for id in all {
        let person = service.json(&format!("{PEOPLE}/{id}"));
        assert_eq!(person["global_id"], *id);
        assert_eq!(person["requested_global_id"], *id);
        let journey = service.json(person["journey_url"].as_str().unwrap());
        let cameras = journey["cameras"].as_array().unwrap();
        let begins: Vec<&str> = cameras
            .iter()
            .map(|stay| stay["first_seen"].as_str().unwrap())
            .collect();
        assert!(begins.is_sorted(), "{journey}");
        let seen = |name: &str| cameras.iter().any(|stay| stay["camera_id"] == name);
        in_both += usize::from(seen("left") && seen("right"));
        let path = journey["path"].as_array().unwrap();
        assert!(!path.is_empty() && path[0]["map_x"].is_f64(), "{journey}");
        let few = service.json(&format!("{PEOPLE}/{id}/journey?max_points=2"));
        assert!(few["path"].as_array().unwrap().len() <= 2);
        assert_eq!(few["points"], journey["points"]);
    }
    // Both cameras see the same.
    assert!(in_both * 10 >= all.len() * 9, "{in_both} of {}", all.len());
    for path in ["9999999", "9999999/journey", "9999999/crop", "-1"] {
        detail(&service.get(&format!("{PEOPLE}/{path}")), 404);
    }
    detail(&service.get(&format!("{PEOPLE}/somebody")), 400);
    let path = format!("{PEOPLE}/{}/journey?max_points=1", all[0]);
    detail(&service.get(&path), 422);
}

/// Identities that turned out to be another one lead there.
fn merged_people(service: &Server, all: &[i64]) {
    let with_merged = service.json(&format!("{PEOPLE}?merged=true"));
    for person in with_merged["people"].as_array().unwrap() {
        let Some(into) = person["merged_into"].as_i64() else {
            assert!(all.contains(&person["global_id"].as_i64().unwrap()));
            continue;
        };
        let id = person["global_id"].as_i64().unwrap();
        let found = service.json(&format!("{PEOPLE}/{id}"));
        assert_eq!(found["requested_global_id"], id);
        assert_ne!(found["global_id"], id, "into {into}");
        assert!(found["merged"].as_array().unwrap().contains(&json!(id)));
    }
}

fn counts(service: &Server, all: &[i64]) {
    let path = "/api/v1/counts";
    let people = |query: &str| service.json(&format!("{path}/people{query}"))["people"].clone();
    assert_eq!(people(""), all.len());
    assert_eq!(people("?environment_id=pets"), all.len());
    assert_eq!(people("?environment_id=elsewhere"), 0);
    assert_eq!(people("?to=2020-01-01T00:00:00Z"), 0);
    let left = people("?camera_id=left");
    assert_eq!(left, people("?camera_id=right"), "both show the same");

    let day = "bucket_seconds=86400";
    let cameras = service.json(&format!("{path}/cameras?{day}"));
    let buckets = cameras["buckets"].as_array().unwrap();
    assert_eq!(buckets.len(), 2, "{cameras}");
    assert_eq!(buckets[0]["people"], left);
    assert_eq!(buckets[0]["positions"], buckets[1]["positions"]);

    let zone = |zone: &str| {
        let answer = service.json(&format!(
            "{path}/occupancy?environment_id=pets&zone={zone}&{day}"
        ));
        let buckets = answer["buckets"].as_array().unwrap();
        assert!(buckets.len() <= 1, "{answer}");
        let number = |name: &str| buckets.first().map_or(0, |b| b[name].as_u64().unwrap());
        (number("people"), number("peak"))
    };
    let (whole, peak) = zone("valid_area");
    assert_eq!(whole as usize, all.len());
    assert!(peak >= 2 && peak <= whole, "{peak}");
    // Two halves share no place, and leave none out.
    let west = zone("-40,-40;0,-40;0,40;-40,40").0;
    let east = zone("0,-40;40,-40;40,40;0,40").0;
    assert!(
        west.max(east) <= whole && west + east >= whole,
        "{west} {east}"
    );
    assert_eq!(zone("100,100;101,100;101,101"), (0, 0));
    for wrong in [
        "zone=0,0;1,1",
        "zone=hall",
        "bucket_seconds=1&from=2020-01-01T00:00:00Z",
    ] {
        let response = service.get(&format!("{path}/occupancy?environment_id=pets&{wrong}"));
        detail(&response, 422);
    }
    detail(
        &service.get(&format!("{path}/occupancy?environment_id=x")),
        404,
    );
    let backwards = "?from=2020-01-02T00:00:00Z&to=2020-01-01T00:00:00Z";
    detail(&service.get(&format!("{path}/people{backwards}")), 422);
}

fn searches(service: &Server, all: &[i64]) {
    let (mut searched, mut first) = (0, 0);
    let mut picture = Vec::new();
    for id in all {
        let crop = service.get(&format!("{PEOPLE}/{id}/crop"));
        if crop.status == 404 {
            continue;
        }
        assert_eq!(crop.header("content-type"), Some("image/jpeg"));
        assert_eq!(crop.header("cache-control"), Some("no-store"));
        let found = search(
            service,
            "?top_k=3&environment_id=pets",
            "image/jpeg",
            &crop.body,
        );
        assert_eq!(found.status, 200, "{}", found.text());
        let found = found.json();
        let matches = found["matches"].as_array().unwrap();
        assert_eq!(matches.len(), 3.min(all.len()));
        let alike: Vec<f64> = matches
            .iter()
            .map(|m| m["similarity"].as_f64().unwrap())
            .collect();
        assert!(
            alike.is_sorted_by(|a, b| a >= b) && alike[0] <= 1.0001,
            "{alike:?}"
        );
        searched += 1;
        first += usize::from(matches[0]["global_id"] == *id);
        picture = crop.body;
    }
    assert!(
        searched > 3 && first * 10 >= searched * 7,
        "{first} of {searched}"
    );

    // A form gives what the plain picture gives.
    let plain = search(service, "", "image/jpeg", &picture);
    let mut form = Form::default();
    form.field("image", Some("x.jpg"), &picture);
    let by_form = http::post(&service.address, &format!("{PEOPLE}/search"), &form, &[]);
    assert_eq!((by_form.status, by_form.text()), (200, plain.text()));
    let elsewhere = search(service, "?environment_id=x", "image/jpeg", &picture);
    assert_eq!(elsewhere.json()["searched"], 0);

    let broken = &picture[..picture.len() / 2];
    detail(&search(service, "", "image/jpeg", &broken[..40]), 422);
    detail(&search(service, "", "image/jpeg", b""), 422);
    detail(&search(service, "", "text/plain", &picture), 415);
    detail(&search(service, "?top_k=101", "image/jpeg", &picture), 422);
    let mut wrong = Form::default();
    wrong.field("video", Some("x.jpg"), &picture);
    let by_form = http::post(&service.address, &format!("{PEOPLE}/search"), &wrong, &[]);
    detail(&by_form, 422);
}

#[test]
fn without_an_encoder_nobody_is_found() {
    let Some(place) = place(false) else { return };
    let service = place.serve();
    let told = detail(&search(&service, "", "image/jpeg", b"x"), 409);
    assert!(told.contains("--reid"), "{told}");
    assert_eq!(service.json(PEOPLE)["count"], 0);
    assert_eq!(service.json("/api/v1/counts/people")["people"], 0);
    let response = service.send("DELETE", &format!("{PEOPLE}/7"), &[], b"");
    detail(&response, 404);
}

/// Some of a vector's numbers as the store and as snapshots (MessagePack) have them, and some bytes of
/// a picture. The numbers are the four whose smallest is largest: OSNet's end in a ReLU, and four
/// zeros are in everybody's vector.
fn marks([vector, crop]: &[Vec<u8>; 2]) -> [Vec<u8>; 3] {
    let numbers: Vec<[u8; 4]> = vector
        .chunks_exact(4)
        .map(|bytes| bytes.try_into().unwrap())
        .collect();
    let smallest = |four: &[[u8; 4]]| {
        let sizes = four.iter().map(|&number| f32::from_le_bytes(number).abs());
        sizes.fold(f32::INFINITY, f32::min)
    };
    let telling = numbers
        .windows(4)
        .max_by(|a, b| smallest(a).total_cmp(&smallest(b)))
        .unwrap();
    assert!(smallest(telling) > 0.0);
    let mut packed = Vec::new();
    for number in telling {
        packed.push(0xca);
        packed.extend(number.iter().rev());
    }
    let middle = crop.len() / 2;
    [telling.concat(), packed, crop[middle..middle + 16].to_vec()]
}

/// Which marks any file below a folder holds.
fn traces(folder: &Path, marks: &[Vec<u8>; 3]) -> [bool; 3] {
    let mut found = [false; 3];
    // What goes while it is looked at is not there.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            let inside = traces(&path, marks);
            for (found, inside) in found.iter_mut().zip(inside) {
                *found |= inside;
            }
            continue;
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        for (found, mark) in found.iter_mut().zip(marks) {
            *found |= bytes
                .windows(mark.len())
                .any(|window| window == mark.as_slice());
        }
    }
    found
}

#[test]
fn nothing_is_left_of_a_person_who_is_erased_while_a_task_runs() {
    let Some(mut place) = place(true) else { return };
    place.add(&["--snapshot-every", "16"]);
    let service = place.serve();
    let task = service.start_task(&json!({"environment_id": "pets"}));
    let data = place.data();
    // Somebody whose vector and picture are in the store and in a snapshot.
    let mut chosen = None;
    wait("somebody in store and snapshot", || {
        let state = service.status(&task);
        assert_eq!(state["error"], Value::Null, "{state}");
        for id in ids(&service.json(PEOPLE)) {
            let Some(stored) = stored(&data, id) else {
                continue;
            };
            let marks = marks(&stored);
            if traces(&data, &marks) == [true; 3] {
                chosen = Some((id, marks));
                return true;
            }
        }
        false
    });
    let (id, marks) = chosen.unwrap();
    let erased = service.send("DELETE", &format!("{PEOPLE}/{id}"), &[], b"");
    let left = traces(&data, &marks);
    assert_eq!(erased.status, 200, "{}", erased.text());
    let also: Vec<i64> = ids(&service.json(&format!("{PEOPLE}?merged=true")))
        .into_iter()
        .filter(|&other| {
            stored(&data, other).is_some_and(|[v, _]| v.windows(16).any(|w| w == marks[0]))
        })
        .collect();
    assert_eq!(left, [false; 3], "{id} {also:?} {}", erased.text());
    let erased = erased.json();
    assert!(
        erased["global_ids"]
            .as_array()
            .unwrap()
            .contains(&json!(id))
    );
    assert!(erased["positions"].as_u64().unwrap() > 0, "{erased}");
    assert_eq!(erased["tasks"], 1, "{erased}");
    for path in ["", "/journey", "/crop"] {
        detail(&service.get(&format!("{PEOPLE}/{id}{path}")), 404);
    }

    // The task goes on, writes further snapshots, and does not bring anything back.
    let before = service.status(&task)["progress"].as_f64().unwrap();
    wait("more frames", || {
        let state = service.status(&task);
        assert_eq!(state["status"], "PROCESSING", "{state}");
        state["progress"].as_f64().unwrap() > before + 4.0
    });
    assert_eq!(traces(&data, &marks), [false; 3]);
    let people = ids(&service.json(&format!("{PEOPLE}?merged=true")));
    assert!(!people.contains(&id) && !people.is_empty(), "{people:?}");

    // Nor does stopping it.
    service.send("DELETE", &format!("{TASKS}/{task}/stop"), &[], b"");
    wait("the end", || service.status(&task)["status"] == "STOPPED");
    assert_eq!(traces(&data, &marks), [false; 3]);
}
