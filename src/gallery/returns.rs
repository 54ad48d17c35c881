//! People who come back where nothing but their looks tells who they are: boxes of one place are
//! put together across cameras first, and are someone by all their vectors together.
//!
//! One box alone would do it by the luckiest of many comparisons: of every camera, with everyone
//! who is out of sight. A mean over the cameras is hardly ever lucky.

use std::collections::BTreeSet;

use mtmc_models::Embedding;

use super::Gallery;
use super::associate::CameraWork;
use super::birth::Unexplained;
use super::pair::{Evidence, coming};
use super::person::Look;
use crate::tracker::assignment::{Assignment, SparseCosts};

/// One person that a group of boxes may be.
struct Prospect {
    person: usize,
    cost: f64,
    similarity: f64,
}

/// Finds those of `groups` who are people out of sight, notes it in `work` and leaves the others.
pub fn known_again(
    gallery: &Gallery,
    time: f64,
    work: &mut [CameraWork<'_>],
    groups: &mut Vec<Vec<Unexplained>>,
) {
    let taken: BTreeSet<usize> = work
        .iter()
        .flat_map(|camera| camera.now.iter().flatten().map(|evidence| evidence.person))
        .collect();
    let mut costs = SparseCosts::default();
    costs.clear(gallery.people.len());
    let mut all = Vec::with_capacity(groups.len());
    for group in groups.iter() {
        let mut prospects = prospects(gallery, time, work, group);
        prospects.retain(|prospect| !taken.contains(&prospect.person));
        for prospect in &prospects {
            costs.push(prospect.person, prospect.cost);
        }
        costs.end_row();
        all.push(prospects);
    }
    let mut solver = Assignment::default();
    solver.solve(&costs, 0.0);
    for (row, prospects) in all.iter().enumerate() {
        for &(camera, index) in &groups[row] {
            let kept = prospects.iter().map(|prospect| prospect.evidence(gallery));
            work[camera].add_candidates(index, kept);
        }
        let Some(person) = solver.column_of(row) else {
            continue;
        };
        let Some(chosen) = prospects.iter().find(|p| p.person == person) else {
            continue;
        };
        for (camera, index) in std::mem::take(&mut groups[row]) {
            work[camera].now[index] = Some(chosen.evidence(gallery));
        }
    }
    groups.retain(|group| !group.is_empty());
}

impl Prospect {
    fn evidence(&self, gallery: &Gallery) -> Evidence {
        let id = gallery.people[self.person].global_id;
        Evidence::by_looks(self.person, id, self.cost, self.similarity)
    }
}

/// Who a group may be by looks, by rising index.
fn prospects(
    gallery: &Gallery,
    time: f64,
    work: &[CameraWork<'_>],
    group: &[Unexplained],
) -> Vec<Prospect> {
    let settings = &gallery.settings;
    let mut looks: Vec<(usize, &Look)> = Vec::new();
    for &(camera, index) in group {
        if let Some(look) = gallery.unbound_look(work[camera].track(index)) {
            looks.push((work[camera].camera, look));
        }
    }
    if looks.is_empty() || settings.appearance_weight <= 0.0 {
        return Vec::new();
    }
    let vectors: Vec<&Embedding> = looks.iter().map(|(_, look)| look.mean()).collect();
    // A mean above the threshold has a part above it.
    let threshold = settings.similarity_threshold;
    let mut alike: Vec<usize> = gallery
        .looks
        .alike(&gallery.people, &vectors, threshold)
        .concat();
    alike.sort_unstable();
    alike.dedup();
    let mut prospects = Vec::new();
    for person in alike {
        let known = &gallery.people[person];
        if !known.is_to_return() {
            continue;
        }
        // One camera that expects him is enough; none may say that he cannot be there.
        let mut surprise = Some(f64::INFINITY);
        for &(camera, index) in group {
            let cost = coming(gallery, time, &work[camera], index, known);
            surprise = surprise.zip(cost).map(|(least, cost)| least.min(cost));
        }
        let Some(surprise) = surprise else { continue };
        let Some(look) = &known.look else { continue };
        let mut found = Vec::new();
        let mut beyond = 0.0;
        for (camera, seen) in &looks {
            if let Some(similarity) = look.similarity(seen.mean()) {
                beyond += similarity - gallery.likeness_needed(*camera, known);
                found.push(similarity);
            }
        }
        let count = found.len().max(1) as f64;
        let similarity = found.iter().sum::<f64>() / count;
        let cost = surprise - settings.appearance_weight * beyond / count;
        if !found.is_empty() && cost < 0.0 {
            prospects.push(Prospect {
                person,
                cost,
                similarity,
            });
        }
    }
    prospects
}
