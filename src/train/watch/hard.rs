//! Who is hard to tell apart, and whom they are taken for.

use std::collections::BTreeMap;

use image::RgbImage;
use mtmc_models::Embedder;
use rayon::prelude::*;

use crate::eval::reid::{
    Evaluation, Options, PictureEntry, Ranked, ReidError, embed_images, ranked_list,
};
use crate::source::read_image;
use crate::train::data::Probe;

/// Gallery images that are looked at for each query.
const RANKS: usize = 10;

/// People who are told of.
const PEOPLE: usize = 12;

/// Queries that are looked at, evenly spread over all of them: each costs a pass over the gallery.
const MAX_QUERIES: usize = 2000;

/// One person who is hard to find.
#[derive(Debug, Clone, PartialEq)]
pub struct HardPerson {
    /// ID in the data set.
    pub id: i64,
    /// Queries of the person that were looked at.
    pub queries: usize,
    /// Share of them whose nearest gallery image shows the person, 0..=1.
    pub rank1: f64,
    /// Share of the person's true images among the first ranks that could hold them, 0..=1.
    pub found: f64,
    /// Others who came first instead, and how often; the most frequent ones first.
    pub taken_for: Vec<(i64, usize)>,
}

/// What a report shows of the hardest people.
#[derive(Debug, Clone, Default)]
pub struct Hard {
    /// The hardest ones, the hardest first.
    pub people: Vec<HardPerson>,
    /// A query of each of the first ones with its ranked list, and what it is.
    pub lists: Vec<(String, RgbImage)>,
}

/// What became of one query.
struct Asked {
    row: usize,
    nearest: Vec<Ranked>,
    /// Share of right ones among the first ranks.
    found: f64,
}

/// Embeds `probe`'s images, so many at a time, and looks for the hardest people among them; `lists`
/// ranked lists are drawn.
///
/// # Errors
/// An image cannot be read or embedded; no query can be answered.
pub fn hardest_for(
    embedder: &dyn Embedder,
    probe: &Probe,
    batch: usize,
    lists: usize,
) -> Result<Hard, ReidError> {
    let query = embed_images(embedder, &probe.query, batch, &mut |_| ())?;
    let gallery = embed_images(embedder, &probe.gallery, batch, &mut |_| ())?;
    let evaluation = Evaluation::new(&query, &gallery, Options::default(), &mut |_, _, _| ())?;
    hardest(&evaluation, probe, lists)
}

/// Looks for the hardest people of an evaluation of `probe`, whose features are in the order of its
/// images; `lists` ranked lists are drawn.
///
/// # Errors
/// The evaluation fails, an image cannot be read.
pub fn hardest(
    evaluation: &Evaluation<'_>,
    probe: &Probe,
    lists: usize,
) -> Result<Hard, ReidError> {
    let every = probe.query.len().div_ceil(MAX_QUERIES).max(1);
    let rows: Vec<usize> = (0..probe.query.len()).step_by(every).collect();
    let answers = answers(probe);
    let asked = rows.into_par_iter().map(|row| {
        let nearest = evaluation.nearest(row, RANKS)?;
        let image = &probe.query[row].name;
        let all = answers.get(&image.id).map_or(0, |cameras| {
            let own = cameras.get(&image.camera).copied().unwrap_or(0);
            cameras.values().sum::<usize>() - own
        });
        let right = nearest.iter().filter(|ranked| ranked.correct).count();
        let found = right as f64 / all.clamp(1, RANKS) as f64;
        Ok((all > 0).then_some(Asked {
            row,
            nearest,
            found,
        }))
    });
    // Gathered as results first: the first error in the queries' order, not in time's.
    let asked: Vec<Result<Option<Asked>, ReidError>> = asked.collect();
    let asked: Result<Vec<Option<Asked>>, ReidError> = asked.into_iter().collect();
    let asked: Vec<Asked> = asked?.into_iter().flatten().collect();
    let mut by_id: BTreeMap<i64, Vec<&Asked>> = BTreeMap::new();
    for one in &asked {
        by_id
            .entry(probe.query[one.row].name.id)
            .or_default()
            .push(one);
    }
    let mut people: Vec<HardPerson> = by_id
        .iter()
        .map(|(id, asked)| person(*id, asked, probe))
        .collect();
    people.sort_by(|a, b| {
        let (left, right) = ((a.rank1, a.found, a.id), (b.rank1, b.found, b.id));
        left.partial_cmp(&right)
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    people.truncate(PEOPLE);
    let mut drawn = Vec::new();
    for person in people.iter().take(lists) {
        let own = by_id.get(&person.id).into_iter().flatten();
        let worst = own.min_by(|a, b| a.found.total_cmp(&b.found).then(a.row.cmp(&b.row)));
        if let Some(worst) = worst {
            drawn.push(draw(worst, probe)?);
        }
    }
    Ok(Hard {
        people,
        lists: drawn,
    })
}

/// Gallery images of every person in every camera.
fn answers(probe: &Probe) -> BTreeMap<i64, BTreeMap<u32, usize>> {
    let mut answers: BTreeMap<i64, BTreeMap<u32, usize>> = BTreeMap::new();
    for image in &probe.gallery {
        let cameras = answers.entry(image.name.id).or_default();
        *cameras.entry(image.name.camera).or_default() += 1;
    }
    answers
}

fn person(id: i64, asked: &[&Asked], probe: &Probe) -> HardPerson {
    let mut taken: BTreeMap<i64, usize> = BTreeMap::new();
    let mut right = 0;
    for one in asked {
        match one.nearest.first() {
            Some(first) if first.correct => right += 1,
            Some(first) => {
                let id = probe.gallery[first.gallery].name.id;
                *taken.entry(id).or_default() += 1;
            }
            None => {}
        }
    }
    let mut taken_for: Vec<(i64, usize)> = taken.into_iter().collect();
    taken_for.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
    let count = asked.len().max(1) as f64;
    HardPerson {
        id,
        queries: asked.len(),
        rank1: f64::from(right) / count,
        found: asked.iter().map(|one| one.found).sum::<f64>() / count,
        taken_for,
    }
}

fn draw(asked: &Asked, probe: &Probe) -> Result<(String, RgbImage), ReidError> {
    let query = &probe.query[asked.row];
    let mut entries = vec![PictureEntry {
        image: read_image(&query.path)?,
        caption: [
            "query".to_string(),
            format!("ID {} cam {}", query.name.id, query.name.camera),
        ],
        correct: None,
    }];
    for (rank, ranked) in (1..).zip(&asked.nearest) {
        let image = &probe.gallery[ranked.gallery];
        entries.push(PictureEntry {
            image: read_image(&image.path)?,
            caption: [
                format!("#{rank}  {:.4}", ranked.distance),
                format!("ID {} cam {}", image.name.id, image.name.camera),
            ],
            correct: Some(ranked.correct),
        });
    }
    let name = query.path.file_name().unwrap_or_default().to_string_lossy();
    Ok((name.into_owned(), ranked_list(&entries)))
}
