//! Where an approximate index would pay for the gallery's search: the exact search beside a graph
//! (HNSW; Malkov and Yashunin, 2020) on the same made-up looks, on one thread, in the same run.
//!
//! Looks are what a gallery holds: a few vectors a person, alike but not equal, that vary in fewer
//! directions than they have numbers. A query is one more look of somebody who is there.

use std::hint::black_box;
use std::time::Instant;

use clap::Args;
use hnsw_rs::prelude::{DistDot, Hnsw};
use mtmc::gallery::search::ExactSearch;
use mtmc_models::Embedding;
use mtmc_models::layers::Mode;

/// Numbers of a look.
const DIM: usize = 512;
/// Directions in which looks vary.
const LATENT: usize = 96;
/// Looks that are kept of a person: a mean and four exemplars.
const KEPT: usize = 5;
/// How far two looks of a person are apart: their cosine is about 0.75.
const SPREAD: f32 = 0.6;
/// Neighbours of a node, and candidates while one is put in: HNSW's usual settings.
const NEIGHBOURS: usize = 16;
const CANDIDATES: usize = 200;
/// Best that are asked for.
const BEST: usize = 10;
/// Layers of the graph at most.
const LAYERS: usize = 16;

/// Arguments of `index`.
#[derive(Debug, Args)]
pub struct IndexArgs {
    /// Entries
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1000,10000,100000,300000"
    )]
    entries: Vec<usize>,

    /// Queries
    #[arg(long, default_value_t = 200)]
    queries: usize,

    /// Candidates while a graph is searched: more find more and take longer
    #[arg(long, value_delimiter = ',', default_value = "32,128,512")]
    search: Vec<usize>,
}

/// Prints a table: what a change and a query cost, and how many of the best are found.
///
/// # Errors
/// None but those of vectors, which are well-formed here.
pub fn run(args: &IndexArgs) -> anyhow::Result<()> {
    mtmc_models::ops::set_threads(1, Mode::Inference)?;
    println!(
        "entries\tsearch\tset, us\t1 query, us\t{} queries, us each\tfirst found\t{BEST} found",
        args.queries
    );
    for &entries in &args.entries {
        measure(args, entries)?;
    }
    Ok(())
}

fn measure(args: &IndexArgs, entries: usize) -> anyhow::Result<()> {
    let looks = Looks::new();
    let queries: Vec<Embedding> = (0..args.queries)
        .map(|q| looks.look(q * 7919 % entries / KEPT, KEPT + q))
        .collect::<Result<_, _>>()?;
    let queries: Vec<&Embedding> = queries.iter().collect();
    let graph = Hnsw::<f32, DistDot>::new(NEIGHBOURS, entries, LAYERS, CANDIDATES, DistDot {});
    let mut exact = ExactSearch::new(DIM);
    exact.reserve(entries);
    // What a change costs is told by the last tenth, when both are as large as they get.
    let late = entries - entries / 10;
    let (mut inserting, mut setting) = (0.0, 0.0);
    for index in 0..entries {
        let vector = looks.look(index / KEPT, index % KEPT)?;
        exact.push(&vector)?;
        let start = Instant::now();
        exact.set(index, &vector)?;
        let middle = Instant::now();
        graph.insert((vector.as_slice(), index));
        if index >= late {
            setting += (middle - start).as_secs_f64();
            inserting += middle.elapsed().as_secs_f64();
        }
    }
    let changes = (entries - late) as f64;
    let truth = exact.top_k(&queries, BEST)?;
    let single = median(queries.iter().map(|query| {
        let start = Instant::now();
        let _ = black_box(exact.top_k(&[query], BEST));
        start.elapsed().as_secs_f64()
    }));
    let together = median((0..5).map(|_| {
        let start = Instant::now();
        let _ = black_box(exact.top_k(&queries, BEST));
        start.elapsed().as_secs_f64() / queries.len() as f64
    }));
    println!(
        "{entries}\texact\t{:.1}\t{:.0}\t{:.0}\t1\t1",
        setting / changes * 1e6,
        single * 1e6,
        together * 1e6
    );
    for &candidates in &args.search {
        let (mut first, mut found) = (0, 0);
        let time = median(queries.iter().zip(&truth).map(|(query, truth)| {
            let start = Instant::now();
            let hits = graph.search(query.as_slice(), BEST, candidates);
            let time = start.elapsed().as_secs_f64();
            let has = |index| hits.iter().any(|hit| hit.d_id == index);
            first += usize::from(has(truth[0].index));
            found += truth.iter().filter(|hit| has(hit.index)).count();
            time
        }));
        println!(
            "{entries}\tgraph, {candidates} candidates\t{:.0}\t{:.0}\t{:.0}\t{:.3}\t{:.3}",
            inserting / changes * 1e6,
            time * 1e6,
            time * 1e6,
            first as f64 / queries.len() as f64,
            found as f64 / (queries.len() * BEST) as f64
        );
    }
    Ok(())
}

fn median(times: impl Iterator<Item = f64>) -> f64 {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Makes looks.
struct Looks {
    /// [`DIM`] × [`LATENT`], row by row.
    mixing: Vec<f32>,
}

impl Looks {
    fn new() -> Self {
        let mut chance = Chance(1);
        let mixing = (0..DIM * LATENT).map(|_| chance.normal()).collect();
        Self { mixing }
    }

    /// Look number `look` of a person.
    fn look(&self, person: usize, look: usize) -> Result<Embedding, mtmc_models::EmbedError> {
        let mut who = Chance((person as u64) << 32 | 0xFFFF_FFFF);
        let mut how = Chance((person as u64) << 32 | look as u64);
        let latent: Vec<f32> = (0..LATENT)
            .map(|_| who.normal() + SPREAD * how.normal())
            .collect();
        let rows = self.mixing.chunks_exact(LATENT);
        let numbers = rows.map(|row| row.iter().zip(&latent).map(|(a, b)| a * b).sum());
        Embedding::new(numbers.collect())
    }
}

/// The generator splitmix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u32 << 24) as f32
    }

    /// Of mean 0 and variance 1, nearly normal: twelve uniform ones.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}
