//! What holds on every database. Expected numbers are counted by hand from the rows that go in.

use std::collections::HashSet;

use mtmc::store::{
    ApiKeyRecord, CameraCount, CountFilter, Created, IdempotencyRecord, JourneyBounds, Occupancy,
    PeopleFilter, Record, RetentionPolicy, Store, StoreError, TaskFilter, Written, global_ids,
};
use uuid::Uuid;

use crate::material::{self, BEGIN, id, person, position, stored_task, task, track, vector};

pub async fn tasks_come_back(store: &Store) {
    let mut all = Vec::new();
    for n in 0..5 {
        let mut new = task(store, if n % 2 == 0 { "house" } else { "yard" }).await;
        new.error = (n == 3).then(|| "no frames: \"x\" 'y'\n".to_string());
        assert_eq!(new.number, n);
        assert_eq!(store.create_task(&new, None).await.unwrap(), Created::New);
        all.push(new);
    }
    assert_eq!(global_ids(3), 30_000_001..=40_000_000);
    assert_eq!(
        store.task(all[3].task_id).await.unwrap().as_ref(),
        Some(&all[3])
    );
    assert_eq!(store.task(Uuid::nil()).await.unwrap(), None);
    // Neither an ID nor a number is used twice.
    let again = store.create_task(&all[0], None).await;
    assert!(
        matches!(again, Err(StoreError::Refused { .. })),
        "{again:?}"
    );

    all[1].status = "FAILED".to_string();
    all[1].started_ms = Some(BEGIN + 1);
    all[1].ended_ms = Some(BEGIN + 2);
    all[1].next_seq = 7;
    assert_eq!(store.update_task(&all[1]).await.unwrap(), Written::Durable);
    assert_eq!(
        store.task(all[1].task_id).await.unwrap().as_ref(),
        Some(&all[1])
    );
    let unfinished = store.unfinished_tasks().await.unwrap();
    let numbers: Vec<i64> = unfinished.iter().map(|task| task.number).collect();
    assert_eq!(numbers, [0, 2, 3, 4]);

    let mut filter = TaskFilter {
        limit: 2,
        ..TaskFilter::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = store.tasks(&filter).await.unwrap();
        pages.push(
            page.items
                .iter()
                .map(|task| task.number)
                .collect::<Vec<_>>(),
        );
        filter.cursor = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec![4, 3], vec![2, 1], vec![0]]);
    let filter = TaskFilter {
        environment_id: Some("yard".to_string()),
        status: Some("QUEUED".to_string()),
        route: Some("detection".to_string()),
        limit: 10,
        ..TaskFilter::default()
    };
    assert_eq!(store.tasks(&filter).await.unwrap().items, [all[3].clone()]);
}

pub async fn a_state_does_not_undo_another(store: &Store) {
    let mut task = stored_task(store, "house").await;
    let writer = store.writer();
    writer.push(material::run(&task, 0..10)).await;
    writer.flush().await.unwrap();
    let stored = store.task(task.task_id).await.unwrap().unwrap();
    assert_eq!((stored.progress, stored.next_seq), (9.0, 9));
    assert_eq!(stored.current_step, "second 9");
    // Numbers of messages never fall, and progress that comes late does not revive a task.
    task.status = "COMPLETED".to_string();
    task.progress = 100.0;
    task.ended_ms = Some(BEGIN);
    store.update_task(&task).await.unwrap();
    writer.push(material::run(&task, 10..12)).await;
    writer.flush().await.unwrap();
    let stored = store.task(task.task_id).await.unwrap().unwrap();
    assert_eq!((stored.progress, stored.next_seq), (100.0, 9));
    assert_eq!(stored.status, "COMPLETED");
}

pub async fn a_request_is_done_once(store: &Store) {
    let first = task(store, "house").await;
    let once = IdempotencyRecord {
        scope: "key-1 start".to_string(),
        key: "abc".to_string(),
        request_hash: "1234".to_string(),
        status: 202,
        response: first.task_id.to_string(),
        created_ms: BEGIN,
    };
    let new = store.create_task(&first, Some(&once)).await.unwrap();
    assert_eq!(new, Created::New);
    let second = task(store, "house").await;
    let again = IdempotencyRecord {
        response: second.task_id.to_string(),
        ..once.clone()
    };
    let created = store.create_task(&second, Some(&again)).await.unwrap();
    assert_eq!(created, Created::Already(once.clone()));
    assert_eq!(store.task(second.task_id).await.unwrap(), None);
    assert_eq!(
        store.idempotent("key-1 start", "abc").await.unwrap(),
        Some(once.clone())
    );
    assert_eq!(store.idempotent("key-2 start", "abc").await.unwrap(), None);
    assert_eq!(
        store.put_idempotent(&again).await.unwrap(),
        Some(once.clone())
    );
    let other = IdempotencyRecord {
        key: "def".to_string(),
        ..once
    };
    assert_eq!(store.put_idempotent(&other).await.unwrap(), None);
}

pub async fn rows_twice_are_rows_once(store: &Store) {
    // The same run, written through and written with a part done twice as after a resume.
    let straight = stored_task(store, "straight").await;
    let resumed = stored_task(store, "resumed").await;
    let writer = store.writer();
    writer.push(material::run(&straight, 0..40)).await;
    writer.push(material::run(&resumed, 0..30)).await;
    writer.flush().await.unwrap();
    writer.push(material::run(&resumed, 12..40)).await;
    writer.push(material::run(&resumed, 12..40)).await;
    let counts = writer.flush().await.unwrap();
    assert_eq!(
        (counts.rejected, counts.dropped_rows, counts.erased),
        (0, 0, 0)
    );

    let mut seen = Vec::new();
    for task in [&straight, &resumed] {
        let filter = CountFilter {
            environment_id: None,
            task_id: Some(task.task_id),
            camera_id: None,
            from_ms: BEGIN,
            to_ms: BEGIN + 100_000,
        };
        let cameras = store.camera_counts(&filter, 5_000).await.unwrap();
        let mut people = Vec::new();
        for n in 1..=4 {
            let mut person = store.person(id(task, n)).await.unwrap().unwrap();
            person.global_id = n;
            person.task_id = Uuid::nil();
            person.environment_id = String::new();
            // Vectors are made from identities; only their age is compared here.
            let newest = (3..40).rev().find(|second| 1 + second % 4 == n).unwrap();
            assert_eq!(person.vector, Some(vector(id(task, n) ^ newest, 16)));
            person.vector = None;
            // The best picture, and of equals the newest.
            let best = (3..40_i64)
                .filter(|second| 1 + second % 4 == n)
                .max_by_key(|second| (second % 7, *second));
            assert_eq!(
                person.crop,
                Some(material::crop(id(task, n) ^ best.unwrap(), 64))
            );
            person.crop = None;
            let journey = store
                .journey(id(task, n), JourneyBounds::default())
                .await
                .unwrap();
            let mut journey = journey.unwrap();
            for stay in &mut journey.stays {
                stay.task_id = Uuid::nil();
            }
            people.push((person, journey.stays, journey.path, journey.points));
        }
        let stored = store.task(task.task_id).await.unwrap().unwrap();
        seen.push((cameras, people, stored.next_seq));
    }
    assert_eq!(seen[0], seen[1]);
    let total: u64 = seen[0].0.iter().map(|count| count.positions).sum();
    assert_eq!(total, 2 * 4 * 40);
}

pub async fn people_and_their_journeys(store: &Store) {
    let task = stored_task(store, "house").await;
    let [anna, ben, cleo] = [1, 2, 3].map(|n| id(&task, n));
    let mut rows = Vec::new();
    // Anna: hall 0..=4 s, yard 3..=6 s, hall again from 9 s (same stay) and from 60 s (another).
    for (camera, track_id, seconds) in [
        ("hall", 1, 0..=4),
        ("yard", 1, 3..=6),
        ("hall", 2, 9..=10),
        ("hall", 3, 60..=61),
    ] {
        for second in seconds.clone() {
            let map = Some([second as f64, 0.5]);
            let row = position(&task, camera, second, track_id, Some(anna), map);
            rows.push(Record::Position(row));
        }
        let times = [*seconds.start(), *seconds.end()];
        rows.push(Record::Track(track(
            &task,
            camera,
            track_id,
            Some(anna),
            times,
        )));
    }
    // Ben turns out to be Anna; of Cleo only a track is left.
    rows.push(Record::Position(position(
        &task,
        "yard",
        20,
        7,
        Some(ben),
        None,
    )));
    rows.push(Record::Track(track(&task, "stairs", 9, Some(cleo), [5, 8])));
    for who in [anna, ben, cleo] {
        rows.push(Record::Person(person(&task, who)));
    }
    let mut merged = person(&task, ben);
    merged.merged_into = Some(anna);
    merged.vector = None;
    rows.push(Record::Person(merged));
    store.writer().push(rows).await;
    store.writer().flush().await.unwrap();

    let journey = store
        .journey(ben, JourneyBounds::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((journey.global_id, journey.merged), (anna, vec![ben]));
    let mut stays = Vec::new();
    for stay in &journey.stays {
        let times = [stay.first_ms, stay.last_ms].map(|time| (time - BEGIN) / 1000);
        stays.push((stay.camera_id.as_str(), times, stay.tracks));
    }
    let expected = [
        ("hall", [0, 10], 2),
        ("yard", [3, 6], 1),
        ("yard", [20, 20], 1),
        ("hall", [60, 61], 1),
    ];
    assert_eq!(stays, expected);
    assert_eq!(journey.points, 13);
    let times: Vec<i64> = journey
        .path
        .iter()
        .map(|p| (p.time_ms - BEGIN) / 1000)
        .collect();
    assert_eq!(times, [0, 1, 2, 3, 3, 4, 4, 5, 6, 9, 10, 60, 61]);
    let bounds = JourneyBounds {
        max_stays: 1,
        max_points: 4,
        ..JourneyBounds::default()
    };
    let short = store.journey(anna, bounds).await.unwrap().unwrap();
    assert_eq!((short.stays.len(), short.left_out), (1, 3));
    assert_eq!(short.stays[0].first_ms, BEGIN + 60_000);
    assert!(short.path.len() <= 4);
    let track_only = store
        .journey(cleo, JourneyBounds::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(track_only.stays[0].camera_id, "stairs");
    assert_eq!(store.journey(id(&task, 99), bounds).await.unwrap(), None);

    let stored = store.person(anna).await.unwrap().unwrap();
    assert_eq!(stored, person(&task, anna));
    let mut filter = PeopleFilter {
        environment_id: Some("house".to_string()),
        limit: 1,
        ..PeopleFilter::default()
    };
    let page = store.people(&filter).await.unwrap();
    assert_eq!((page.items[0].global_id, page.next), (cleo, Some(cleo)));
    assert!(page.items[0].has_crop);
    filter.cursor = page.next;
    let page = store.people(&filter).await.unwrap();
    assert_eq!((page.items[0].global_id, page.next), (anna, None));
    filter.cursor = None;
    filter.from_ms = Some(BEGIN + 1001);
    assert!(store.people(&filter).await.unwrap().items.is_empty());

    let mut found = Vec::new();
    let environment = Some("house");
    let take = |who: i64, vector: &[f32]| found.push((who, vector.to_vec()));
    store.each_vector("clip", environment, take).await.unwrap();
    assert_eq!(
        found,
        [(anna, vector(anna, 512)), (cleo, vector(cleo, 512))]
    );
    let none = |_: i64, _: &[f32]| panic!("another network's vector");
    store.each_vector("osnet", None, none).await.unwrap();
}

pub async fn counts_of_people(store: &Store) {
    let task = stored_task(store, "house").await;
    let other = stored_task(store, "elsewhere").await;
    let [anna, ben, cleo] = [1, 2, 3].map(|n| id(&task, n));
    // Seconds 0 and 1: Anna in the zone, seen by both cameras. Second 1: Ben too, Cleo outside.
    // Second 12: Ben in the zone alone, under the identity of Cleo, who turns out to be Ben.
    let inside = Some([1.0, 1.0]);
    let outside = Some([9.0, 1.0]);
    let rows = [
        position(&task, "hall", 0, 1, Some(anna), inside),
        position(&task, "yard", 0, 5, Some(anna), inside),
        position(&task, "hall", 1, 1, Some(anna), inside),
        position(&task, "hall", 1, 2, Some(ben), inside),
        position(&task, "hall", 1, 3, Some(cleo), outside),
        position(&task, "hall", 1, 4, None, inside),
        position(&task, "hall", 12, 2, Some(ben), None),
        position(&task, "hall", 12, 3, Some(cleo), inside),
        position(&other, "hall", 0, 1, Some(id(&other, 1)), inside),
    ];
    let mut records: Vec<Record> = rows.into_iter().map(Record::Position).collect();
    for (track_id, who, times) in [(1, anna, [0, 1]), (2, ben, [1, 12]), (3, cleo, [1, 12])] {
        records.push(Record::Track(track(
            &task,
            "hall",
            track_id,
            Some(who),
            times,
        )));
        records.push(Record::Person(person(&task, who)));
    }
    records.push(Record::Track(track(
        &other,
        "hall",
        1,
        Some(id(&other, 1)),
        [0, 0],
    )));
    let mut merged = person(&task, cleo);
    merged.merged_into = Some(ben);
    records.push(Record::Person(merged));
    store.writer().push(records).await;
    store.writer().flush().await.unwrap();

    let all = CountFilter {
        environment_id: Some("house".to_string()),
        task_id: None,
        camera_id: None,
        from_ms: BEGIN,
        to_ms: BEGIN + 20_000,
    };
    assert_eq!(store.unique_people(&all).await.unwrap(), 2);
    let late = CountFilter {
        from_ms: BEGIN + 5_000,
        ..all.clone()
    };
    assert_eq!(store.unique_people(&late).await.unwrap(), 1);
    let everywhere = CountFilter {
        environment_id: None,
        ..all.clone()
    };
    assert_eq!(store.unique_people(&everywhere).await.unwrap(), 3);

    let zone = [[0., 0.], [4., 0.], [4., 4.], [0., 4.]];
    let windows = store.occupancy(&all, &zone, 10_000).await.unwrap();
    let window = |from_ms, people, peak| Occupancy {
        from_ms,
        people,
        peak,
    };
    assert_eq!(windows, [window(BEGIN, 2, 2), window(BEGIN + 10_000, 1, 1)]);
    let cameras = store.camera_counts(&all, 10_000).await.unwrap();
    let count = |camera: &str, from_ms, people, positions| CameraCount {
        camera_id: camera.to_string(),
        from_ms,
        people,
        positions,
    };
    let expected = [
        count("hall", BEGIN, 2, 5),
        count("yard", BEGIN, 1, 1),
        count("hall", BEGIN + 10_000, 1, 2),
    ];
    assert_eq!(cameras, expected);
    for wrong in [0, -5, 1] {
        let refused = store.camera_counts(&all, wrong).await;
        assert!(
            matches!(refused, Err(StoreError::TooMuch(_))),
            "{wrong}: {refused:?}"
        );
    }
    assert!(store.occupancy(&all, &zone[..2], 1_000).await.is_err());
}

pub async fn old_and_too_much_goes(store: &Store) {
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let task = stored_task(store, "house").await;
        store.writer().push(material::run(&task, 0..300)).await;
        tasks.push(task);
    }
    store.writer().flush().await.unwrap();
    // The second ended first, the first later, the third runs.
    for (index, ended) in [(1, 400_000), (0, 500_000)] {
        tasks[index].ended_ms = Some(BEGIN + ended);
        store.update_task(&tasks[index]).await.unwrap();
    }
    assert_eq!(positions(store, &tasks).await, [2400, 2400, 2400]);

    let nothing = RetentionPolicy {
        positions_ms: Some(1_000_000),
        tasks_ms: Some(1_000_000),
        max_bytes: Some(u64::MAX),
        ..RetentionPolicy::default()
    };
    let retained = store.retain(&nothing, BEGIN + 600_000).await.unwrap();
    assert_eq!((retained.positions, retained.tasks), (0, 0));
    // Older than 100 s before second 110: seconds 0 to 9 of all tasks, 8 positions each.
    let old = RetentionPolicy {
        positions_ms: Some(100_000),
        ..RetentionPolicy::default()
    };
    let retained = store.retain(&old, BEGIN + 110_000).await.unwrap();
    assert_eq!(retained.positions, 240);
    assert_eq!(positions(store, &tasks).await, [2320, 2320, 2320]);

    let before = store.bytes().await.unwrap();
    let smaller = RetentionPolicy {
        max_bytes: Some(before - before / 8),
        ..RetentionPolicy::default()
    };
    let retained = store.retain(&smaller, BEGIN + 600_000).await.unwrap();
    let left = positions(store, &tasks).await;
    assert!(
        left[1] < 2320 && left[0] == 2320 && left[2] == 2320,
        "{left:?}"
    );
    assert_eq!(retained.positions, 2320 - left[1]);
    assert!(store.bytes().await.unwrap() <= before - before / 8);
    assert_eq!(retained.tasks, 0);

    // Nothing is small enough: only the running task is left, whole.
    let none = RetentionPolicy {
        max_bytes: Some(1),
        ..RetentionPolicy::default()
    };
    let retained = store.retain(&none, BEGIN + 600_000).await.unwrap();
    assert_eq!((retained.tasks, retained.people), (2, 8));
    assert_eq!(positions(store, &tasks).await, [0, 0, 2320]);
    let aged = RetentionPolicy {
        tasks_ms: Some(1),
        ..RetentionPolicy::default()
    };
    tasks[2].ended_ms = Some(BEGIN);
    store.update_task(&tasks[2]).await.unwrap();
    let retained = store.retain(&aged, BEGIN + 600_000).await.unwrap();
    assert_eq!((retained.tasks, retained.people), (1, 4));
    assert!(store.unfinished_tasks().await.unwrap().is_empty());
}

/// Positions of each task.
async fn positions(store: &Store, tasks: &[mtmc::store::TaskRecord]) -> Vec<u64> {
    let mut counts = Vec::new();
    for task in tasks {
        let filter = CountFilter {
            environment_id: None,
            task_id: Some(task.task_id),
            camera_id: None,
            from_ms: BEGIN,
            to_ms: BEGIN + 1_000_000,
        };
        let cameras = store.camera_counts(&filter, 1_000_000).await.unwrap();
        counts.push(cameras.iter().map(|count| count.positions).sum());
    }
    counts
}

pub async fn erased_people_stay_away(store: &Store) {
    let task = stored_task(store, "house").await;
    let [anna, ben, cleo] = [1, 2, 3].map(|n| id(&task, n));
    let writer = store.writer();
    writer.push(material::run(&task, 0..40)).await;
    let mut merged = person(&task, ben);
    merged.merged_into = Some(anna);
    writer.push(vec![Record::Person(merged.clone())]).await;
    writer.flush().await.unwrap();

    // Asked for by the identity that is not used any more: the person is erased under both.
    let erased = store.erase_person(ben).await.unwrap().unwrap();
    assert_eq!(erased.global_ids, [anna, ben]);
    // Seconds 3 to 39 in two cameras, two tracks each; news of Anna in seconds 4, 8, … 36 (1 + s % 4
    // = 1), of Ben in 5, 9, … 37. Handoffs are named second / 2, the later one wins.
    assert_eq!((erased.people, erased.tracks), (2, 4));
    assert_eq!(erased.positions, 2 * 2 * 37);
    assert_eq!(erased.events, 9 + 9);
    let mut named = HashSet::new();
    for handoff in 1..=19 {
        let last = (2 * handoff + 1).min(39);
        let who = 1 + last % 4;
        if who == 1 || who == 2 {
            named.insert(handoff);
        }
    }
    assert_eq!(erased.handoffs, named.len() as u64);
    for gone in [anna, ben] {
        assert_eq!(store.person(gone).await.unwrap(), None);
        assert_eq!(
            store.journey(gone, JourneyBounds::default()).await.unwrap(),
            None
        );
    }
    assert!(store.person(cleo).await.unwrap().is_some());

    // The task goes on as if nothing had happened, and is resumed from before the erasure.
    writer.push(material::run(&task, 30..50)).await;
    writer.push(vec![Record::Person(merged)]).await;
    let counts = writer.flush().await.unwrap();
    assert!(counts.erased > 0);
    for gone in [anna, ben] {
        assert_eq!(store.person(gone).await.unwrap(), None);
        assert_eq!(
            store.journey(gone, JourneyBounds::default()).await.unwrap(),
            None
        );
    }
    let journey = store
        .journey(cleo, JourneyBounds::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(journey.stays[0].last_ms, BEGIN + 49_000);
    assert_eq!(store.erase_person(id(&task, 77)).await.unwrap(), None);
}

pub async fn environments_are_removed(store: &Store) {
    let gone = stored_task(store, "house").await;
    let kept = stored_task(store, "yard").await;
    for task in [&gone, &kept] {
        store.writer().push(material::run(task, 0..10)).await;
    }
    store.writer().flush().await.unwrap();
    let removed = store.erase_environment("house").await.unwrap();
    // Seconds 3 to 9: handoffs 1 to 4, messages 3 to 9.
    let counts = (
        removed.tasks,
        removed.tracks,
        removed.positions,
        removed.people,
    );
    assert_eq!(counts, (1, 8, 80, 4));
    assert_eq!((removed.handoffs, removed.events), (4, 7));
    assert_eq!(store.task(gone.task_id).await.unwrap(), None);
    assert!(store.task(kept.task_id).await.unwrap().is_some());
    assert!(store.person(id(&kept, 1)).await.unwrap().is_some());
    let again = store.erase_environment("house").await.unwrap();
    assert_eq!(again, mtmc::store::Removed::default());
    // What still comes from its tasks is refused, numbers of tasks are not given again.
    store.writer().push(material::run(&gone, 10..11)).await;
    let counts = store.writer().flush().await.unwrap();
    assert_eq!(counts.rejected, 8 + 8 + 3);
    assert_eq!(store.next_task_number().await.unwrap(), kept.number + 1);
}

pub async fn keys_come_back(store: &Store) {
    let key = ApiKeyRecord {
        id: "k1".to_string(),
        name: "door".to_string(),
        role: "viewer".to_string(),
        hash: "00ff".to_string(),
        created_ms: BEGIN,
        revoked_ms: None,
    };
    store.add_api_key(&key).await.unwrap();
    assert!(store.add_api_key(&key).await.is_err());
    assert_eq!(store.api_key("k1").await.unwrap(), Some(key.clone()));
    assert!(store.revoke_api_key("k1", BEGIN + 5).await.unwrap());
    assert!(!store.revoke_api_key("k1", BEGIN + 6).await.unwrap());
    let revoked = ApiKeyRecord {
        revoked_ms: Some(BEGIN + 5),
        ..key
    };
    assert_eq!(store.api_keys().await.unwrap(), [revoked]);
}

pub async fn one_refused_row_is_alone(store: &Store) {
    let known = stored_task(store, "house").await;
    let unknown = task(store, "house").await;
    let mut rows = material::run(&known, 0..5);
    let good = rows.len();
    let stray = position(&unknown, "hall", 1, 1, None, None);
    rows.insert(good / 2, Record::Position(stray));
    store.writer().push(rows).await;
    let counts = store.writer().flush().await.unwrap();
    assert_eq!((counts.rejected, counts.settled), (1, good as u64 + 1));
    assert_eq!(positions(store, &[known]).await, [40]);
    assert_eq!(store.health(), mtmc::store::Health::Ok);
}
