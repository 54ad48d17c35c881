//! `mtmc eval reid`: features of people under the Market-1501 protocol.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use mtmc_models::layers::Mode;
use mtmc_tools::dataset::market1501::Image;

use crate::cli::data::KindName;
use crate::cli::options::ComputeArgs;
use crate::cli::progress::Progress;
use crate::eval::reid::{
    Distance, Evaluation, Features, Metrics, Options, PictureEntry, RerankOptions, Step,
    embed_images, ranked_list,
};
use crate::source::read_image;
use crate::train::data::Probe;

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

    /// Queries and gallery of Market-1501 (as downloaded or as `mtmc data prepare` writes it),
    /// DukeMTMC-reID, MSMT17, or of `mtmc data synth-reid` and `crops`; embedded unless --query and
    /// --gallery give their features
    #[arg(long, env = "MTMC_REID_DATA", value_name = "DIR")]
    data: Option<PathBuf>,

    /// How that folder is laid out
    #[arg(long, env = "MTMC_DATA_KIND", default_value = "detect")]
    kind: KindName,

    /// Weights that embed the images of --data: a .safetensors file, or a name of
    /// `mtmc models list`, fetched if absent
    #[arg(long, env = "REID_MODEL_PATH", value_name = "WEIGHTS")]
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

    /// No progress, only the result
    #[arg(short, long, env = "MTMC_QUIET")]
    quiet: bool,

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
    args.compute.start_threads(Mode::Inference)?;
    let options = args.options();
    if let Some(rerank) = &options.rerank {
        rerank.check()?;
    }
    let folder = args.folder()?;
    let drawn = match (&args.ranked_list, &folder) {
        (Some(wanted), Some(folder)) => Some(find_query(folder, wanted)?),
        _ => None,
    };
    let (query, gallery) = features(args, folder.as_ref())?;
    let mut steps = Steps::new(args.quiet);
    let mut show = |step, done, total| steps.update(step, done, total);
    let evaluation = Evaluation::new(&query, &gallery, options, &mut show)?;
    let metrics = evaluation.metrics(&mut show)?;
    steps.finish();
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
    /// The images, where features are to be made of them or some of them to be drawn.
    fn folder(&self) -> anyhow::Result<Option<Probe>> {
        match &self.data {
            Some(data) if self.query.is_none() || self.ranked_list.is_some() => {
                Ok(Some(Probe::open(data, self.kind.into())?))
            }
            _ => Ok(None),
        }
    }

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

/// Index of the query of that name, or at that index.
fn find_query(folder: &Probe, wanted: &str) -> anyhow::Result<usize> {
    if let Ok(index) = wanted.parse::<usize>() {
        if index >= folder.query.len() {
            bail!(
                "--ranked-list {index}: there are {} queries, from 0",
                folder.query.len()
            );
        }
        return Ok(index);
    }
    let named = folder.query.iter().position(|image| {
        let name = image.path.file_name().unwrap_or_default();
        let stem = image.path.file_stem().unwrap_or_default();
        name == wanted || stem == wanted
    });
    named.with_context(|| format!("--ranked-list {wanted}: no query has that file name"))
}

/// Features of queries and gallery: read, or computed from the folder's images.
fn features(args: &ReidArgs, folder: Option<&Probe>) -> anyhow::Result<(Features, Features)> {
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

fn embed(args: &ReidArgs, folder: &Probe, weights: &str) -> anyhow::Result<(Features, Features)> {
    let embedder = args.compute.embedder(weights)?;
    let batch = usize::from(args.batch);
    let queries = folder.query.len();
    let total = (queries + folder.gallery.len()) as u64;
    let progress = Progress::new(Some(total), "images embedded", args.quiet);
    let query = embed_images(&embedder, &folder.query, batch, &mut |done| {
        progress.update(done as u64);
    })?;
    let gallery = embed_images(&embedder, &folder.gallery, batch, &mut |done| {
        progress.update((queries + done) as u64);
    })?;
    progress.finish();
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
    folder: &Probe,
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

/// Progress of one step after the other.
struct Steps {
    quiet: bool,
    current: Option<(Step, Progress)>,
}

impl Steps {
    fn new(quiet: bool) -> Self {
        Self {
            quiet,
            current: None,
        }
    }

    fn update(&mut self, step: Step, done: usize, total: usize) {
        if self.current.as_ref().is_none_or(|(last, _)| *last != step) {
            self.finish();
            let unit = match step {
                Step::Neighbours => "tiles of neighbours",
                Step::Encode => "neighbourhoods",
                Step::Rank => "queries ranked",
            };
            self.current = Some((step, Progress::new(Some(total as u64), unit, self.quiet)));
        }
        if let Some((_, progress)) = &self.current {
            progress.update(done as u64);
        }
    }

    fn finish(&mut self) {
        if let Some((_, progress)) = self.current.take() {
            progress.finish();
        }
    }
}
