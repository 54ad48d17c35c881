//! `mtmc eval reid`: features of people under the Market-1501 protocol.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use mtmc_tools::dataset::market1501::{GALLERY, Image, JUNK, QUERY, list_split};

use crate::cli::options::ComputeArgs;
use crate::eval::reid::{
    Distance, Evaluation, Features, Metrics, Options, PictureEntry, RerankOptions, Step,
    embed_images, ranked_list,
};
use crate::source::read_image;

/// Gallery images in the picture of a ranked list.
const PICTURE_RANKS: usize = 10;

/// Arguments of `mtmc eval reid`.
#[derive(Debug, Args)]
pub struct ReidArgs {
    /// Queries' features: safetensors with `features` (F32, images × dim), `ids` and `cameras`
    /// (I64, images)
    #[arg(long, value_name = "FILE", requires = "gallery")]
    query: Option<PathBuf>,

    /// The gallery's features, in the same format; ID -1 is junk
    #[arg(long, value_name = "FILE", requires = "query")]
    gallery: Option<PathBuf>,

    /// Images in Market-1501's layout: query/ and bounding_box_test/ with names such as
    /// 0002_c1s1_000451_03.jpg
    #[arg(long, env = "MTMC_REID_DATA", value_name = "DIR")]
    data: Option<PathBuf>,

    /// Weights that embed the images of --data: a .safetensors file, or a name of
    /// `mtmc models list`, fetched if absent
    #[arg(long, env = "MTMC_REID_WEIGHTS", value_name = "WEIGHTS")]
    reid: Option<String>,

    /// Keep the features of --data in this folder: query.safetensors and gallery.safetensors
    #[arg(long, env = "MTMC_SAVE_FEATURES", value_name = "DIR")]
    save_features: Option<PathBuf>,

    /// Images that are embedded at once
    #[arg(long, env = "MTMC_BATCH", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,

    /// How far two features are from each other
    #[arg(long, env = "MTMC_REID_DISTANCE", default_value = "cosine")]
    distance: DistanceName,

    /// Rank by k-reciprocal neighbours (Zhong et al. 2017)
    #[arg(long, env = "MTMC_RERANK")]
    rerank: bool,

    /// Re-ranking: neighbours that may be reciprocal (1..500)
    #[arg(long, env = "MTMC_RERANK_K1", default_value_t = RerankOptions::default().k1)]
    k1: usize,

    /// Re-ranking: neighbours that are averaged, the image itself among them (1..500)
    #[arg(long, env = "MTMC_RERANK_K2", default_value_t = RerankOptions::default().k2)]
    k2: usize,

    /// Re-ranking: weight of the original distance (0..1)
    #[arg(long, env = "MTMC_RERANK_LAMBDA", default_value_t = RerankOptions::default().lambda)]
    lambda: f64,

    /// Print JSON, ratios as fractions, instead of a table
    #[arg(long, env = "MTMC_JSON")]
    json: bool,

    /// Draw this query and the 10 gallery images nearest to it: its file name or its index from 0
    #[arg(
        long,
        value_name = "NAME|INDEX",
        requires = "picture",
        requires = "data"
    )]
    ranked_list: Option<String>,

    /// Where to draw it: green frames show the query's person, red ones another
    #[arg(long, value_name = "FILE.png", requires = "ranked_list")]
    picture: Option<PathBuf>,

    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DistanceName {
    /// 1 - cosine similarity
    Cosine,
    /// Squared Euclidean
    Euclidean,
}

/// Measures and prints.
///
/// # Errors
/// Files, images or weights that are missing or broken, by name and row.
pub fn run(args: &ReidArgs) -> anyhow::Result<()> {
    args.compute.start_threads()?;
    let options = args.options();
    if let Some(rerank) = &options.rerank {
        rerank.check()?;
    }
    let folder = args.data.as_deref().map(Folder::open).transpose()?;
    let drawn = match (&args.ranked_list, &folder) {
        (Some(wanted), Some(folder)) => Some(folder.find_query(wanted)?),
        _ => None,
    };
    let (query, gallery) = features(args, folder.as_ref())?;
    let bar = Bar::new();
    let evaluation = Evaluation::new(&query, &gallery, options, &mut |step, done, total| {
        bar.step(step, done, total);
    })?;
    let metrics = evaluation.metrics(&mut |step, done, total| bar.step(step, done, total))?;
    bar.finish();
    if let (Some(drawn), Some(folder), Some(path)) = (drawn, &folder, &args.picture) {
        draw(&evaluation, folder, drawn, path)?;
    }
    let mut stdout = std::io::stdout().lock();
    if args.json {
        let json = json(&metrics, &options, query.dim());
        writeln!(stdout, "{}", serde_json::to_string_pretty(&json)?)?;
    } else {
        write!(stdout, "{}", table(&metrics))?;
    }
    Ok(())
}

impl ReidArgs {
    fn options(&self) -> Options {
        Options {
            distance: match self.distance {
                DistanceName::Cosine => Distance::Cosine,
                DistanceName::Euclidean => Distance::Euclidean,
            },
            rerank: self.rerank.then_some(RerankOptions {
                k1: self.k1,
                k2: self.k2,
                lambda: self.lambda,
            }),
        }
    }
}

/// A folder's images without junk.
struct Folder {
    query: Vec<Image>,
    gallery: Vec<Image>,
}

impl Folder {
    fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            query: list_split(&path.join(QUERY))?,
            gallery: list_split(&path.join(GALLERY))?
                .into_iter()
                .filter(|image| image.name.id != JUNK)
                .collect(),
        })
    }

    /// Index of the query of that name, or at that index.
    fn find_query(&self, wanted: &str) -> anyhow::Result<usize> {
        if let Ok(index) = wanted.parse::<usize>() {
            if index >= self.query.len() {
                bail!(
                    "--ranked-list {index}: there are {} queries, from 0",
                    self.query.len()
                );
            }
            return Ok(index);
        }
        let named = self.query.iter().position(|image| {
            let name = image.path.file_name().unwrap_or_default();
            let stem = image.path.file_stem().unwrap_or_default();
            name == wanted || stem == wanted
        });
        named.with_context(|| format!("--ranked-list {wanted}: no query has that file name"))
    }
}

/// Features of queries and gallery: read, or computed from the folder's images.
fn features(args: &ReidArgs, folder: Option<&Folder>) -> anyhow::Result<(Features, Features)> {
    match (&args.query, &args.gallery, folder, &args.reid) {
        (Some(query), Some(gallery), folder, _) => {
            let (query_path, gallery_path) = (query, gallery);
            let query = Features::read(query_path)?;
            let gallery = Features::read(gallery_path)?;
            if let Some(folder) = folder {
                check_order(query_path, &query, &folder.query)?;
                check_order(gallery_path, &gallery, &folder.gallery)?;
            }
            Ok((query, gallery))
        }
        (None, None, Some(folder), Some(weights)) => embed(args, folder, weights),
        (None, None, Some(_), None) => bail!(
            "--data needs --reid WEIGHTS to embed its images, or --query and --gallery with their \
             features"
        ),
        _ => bail!("nothing to measure: give --query and --gallery, or --data and --reid"),
    }
}

/// Features that were saved from the folder have its images' IDs and cameras in its order.
fn check_order(path: &Path, features: &Features, images: &[Image]) -> anyhow::Result<()> {
    let same = features.len() == images.len()
        && images.iter().enumerate().all(|(row, image)| {
            features.ids()[row] == image.name.id
                && features.cameras()[row] == i64::from(image.name.camera)
        });
    if !same {
        bail!(
            "{}: not the features of the images of --data, in the order of their names and without \
             junk, as --save-features writes them",
            path.display()
        );
    }
    Ok(())
}

fn embed(args: &ReidArgs, folder: &Folder, weights: &str) -> anyhow::Result<(Features, Features)> {
    let embedder = args.compute.embedder(weights)?;
    let bar = Bar::new();
    let batch = usize::from(args.batch);
    let total = folder.query.len() + folder.gallery.len();
    let query = embed_images(&embedder, &folder.query, batch, &mut |done| {
        bar.show("images embedded", done, total);
    })?;
    let gallery = embed_images(&embedder, &folder.gallery, batch, &mut |done| {
        bar.show("images embedded", folder.query.len() + done, total);
    })?;
    bar.finish();
    if let Some(out) = &args.save_features {
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        query.write(&out.join("query.safetensors"))?;
        gallery.write(&out.join("gallery.safetensors"))?;
    }
    Ok((query, gallery))
}

/// Draws the ranked list of one query.
fn draw(
    evaluation: &Evaluation<'_>,
    folder: &Folder,
    query: usize,
    path: &Path,
) -> anyhow::Result<()> {
    let about = |image: &Image| format!("ID {} cam {}", image.name.id, image.name.camera);
    let image = &folder.query[query];
    let mut entries = vec![PictureEntry {
        image: read_image(&image.path)?,
        caption: [format!("query {query}"), about(image)],
        correct: None,
    }];
    let nearest = evaluation.nearest(query, PICTURE_RANKS)?;
    for (rank, one) in (1..).zip(nearest) {
        let image = &folder.gallery[one.gallery];
        entries.push(PictureEntry {
            image: read_image(&image.path)?,
            caption: [format!("#{rank}  {:.4}", one.distance), about(image)],
            correct: Some(one.correct),
        });
    }
    ranked_list(&entries)
        .save(path)
        .with_context(|| path.display().to_string())
}

fn json(metrics: &Metrics, options: &Options, dim: usize) -> serde_json::Value {
    let rerank = options.rerank.map(
        |rerank| serde_json::json!({"k1": rerank.k1, "k2": rerank.k2, "lambda": rerank.lambda}),
    );
    serde_json::json!({
        "rank1": metrics.rank(1),
        "rank5": metrics.rank(5),
        "rank10": metrics.rank(10),
        "map": metrics.map,
        "minp": metrics.minp,
        "cmc": metrics.cmc,
        "queries": metrics.queries,
        "unmatched_queries": metrics.unmatched,
        "gallery": metrics.gallery,
        "junk": metrics.junk,
        "dim": dim,
        "distance": match options.distance {
            Distance::Cosine => "cosine",
            Distance::Euclidean => "euclidean",
        },
        "rerank": rerank,
    })
}

/// A table for people, ratios in percent.
fn table(metrics: &Metrics) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    // Writing into a String cannot fail.
    for head in ["rank-1", "rank-5", "rank-10", "mAP", "mINP"] {
        let _ = write!(text, "{head:>8}");
    }
    let _ = writeln!(text, "{:>9}{:>9}", "queries", "gallery");
    let ratios = [1, 5, 10].map(|rank| metrics.rank(rank));
    for ratio in ratios.into_iter().chain([metrics.map, metrics.minp]) {
        let _ = write!(text, "{:>8.2}", ratio * 100.0);
    }
    let _ = writeln!(text, "{:>9}{:>9}", metrics.queries, metrics.gallery);
    if metrics.unmatched > 0 {
        let _ = writeln!(
            text,
            "left out: {} queries without their ID in another camera",
            metrics.unmatched
        );
    }
    if metrics.junk > 0 {
        let _ = writeln!(text, "left out: {} gallery images as junk", metrics.junk);
    }
    text
}

/// Progress on a terminal; silent elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let template = "{bar:40} {pos}/{len} {msg}  {elapsed} elapsed, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn step(&self, step: Step, done: usize, total: usize) {
        let what = match step {
            Step::Neighbours => "tiles of neighbours",
            Step::Encode => "neighbourhoods",
            Step::Rank => "queries ranked",
        };
        self.show(what, done, total);
    }

    fn show(&self, what: &'static str, done: usize, total: usize) {
        self.0.set_message(what);
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
    }

    fn finish(&self) {
        self.0.finish_and_clear();
    }
}
