//! Times one update of every tracker, interleaved: in each round each tracker has a turn, so that
//! what else the machine does falls on all of them.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use mtmc::tracker::{FrameDetections, TrackerSettings};

use crate::crates::{ForgeBotSort, ForgeByteTrack, SimilariSort, SimilariVisual};
use crate::peer::{Mtmc, Peer};
use crate::python::Worker;
use crate::{quality, scene};

/// At most so many updates before each turn that are not timed: they bring the tracker back into
/// the caches.
const WARM_UP: usize = 16;
/// A turn lasts about so long, in seconds, and has at least [`SHORTEST`] updates.
const TURN: f64 = 0.05;
/// Updates of the slowest tracker's turn.
const SHORTEST: usize = 4;
/// A new tracker walks through the scene once, or as far as it gets in so many seconds.
const FIRST_LAP: f64 = 3.0;

/// Arguments of `speed`.
#[derive(Debug, Args)]
pub struct SpeedArgs {
    /// Python with requirements.txt installed; without it only Rust trackers are timed
    #[arg(long, env = "MTMC_BENCH_PYTHON", value_name = "FILE")]
    python: Option<PathBuf>,

    /// People in a frame
    #[arg(long, value_delimiter = ',', default_value = "20,50,100,500")]
    people: Vec<usize>,

    /// Turns of every tracker; the median counts
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

/// Something that can be timed.
trait Runner {
    fn name(&self) -> &str;
    /// Takes a scene, walks through it (see [`FIRST_LAP`]), and says how many tracks are then shown.
    fn start(&mut self, scene: &Scene) -> anyhow::Result<usize>;
    /// So many updates: the seconds they took.
    fn run(&mut self, updates: usize) -> anyhow::Result<f64>;
}

/// A crowd in memory and, for Python, in a file.
struct Scene {
    people: usize,
    dim: usize,
    frames: Vec<FrameDetections>,
    file: PathBuf,
}

/// A tracker of this process.
struct Local<P: Peer, B: Fn(usize) -> P> {
    name: &'static str,
    /// Makes it, for a number of people.
    build: B,
    peer: Option<P>,
    inputs: Vec<P::Input>,
    next: usize,
}

fn local<P: Peer + 'static>(
    name: &'static str,
    build: impl Fn(usize) -> P + 'static,
) -> Box<dyn Runner> {
    Box::new(Local {
        name,
        build,
        peer: None,
        inputs: Vec::new(),
        next: 0,
    })
}

impl<P: Peer, B: Fn(usize) -> P> Runner for Local<P, B> {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&mut self, scene: &Scene) -> anyhow::Result<usize> {
        let mut peer = (self.build)(scene.people);
        self.inputs = scene.frames.iter().map(|f| peer.prepare(f)).collect();
        self.next = 0;
        let mut shown = 0;
        let started = Instant::now();
        for mut input in self.inputs.clone() {
            let output = peer.update(&mut input);
            shown = peer.rows(&input, &output).len();
            self.next += 1;
            if started.elapsed().as_secs_f64() > FIRST_LAP {
                break;
            }
        }
        self.next %= self.inputs.len();
        self.peer = Some(peer);
        Ok(shown)
    }

    fn run(&mut self, updates: usize) -> anyhow::Result<f64> {
        let peer = self.peer.as_mut().context("no scene")?;
        let mut taken = 0.0;
        let mut left = updates;
        while left > 0 {
            let end = self.inputs.len().min(self.next + left);
            let mut inputs = self.inputs[self.next..end].to_vec();
            let started = Instant::now();
            for input in &mut inputs {
                black_box(peer.update(black_box(input)));
            }
            taken += started.elapsed().as_secs_f64();
            left -= inputs.len();
            self.next = end % self.inputs.len();
            peer.clean_up();
        }
        Ok(taken)
    }
}

/// A tracker in Python.
struct Remote {
    label: String,
    worker: Worker,
    with_embeddings: bool,
}

impl Runner for Remote {
    fn name(&self) -> &str {
        &self.label
    }

    fn start(&mut self, scene: &Scene) -> anyhow::Result<usize> {
        debug_assert_eq!(self.with_embeddings, scene.dim > 0);
        let (file, people, dim) = (scene.file.display(), scene.people, scene.dim);
        let answer = self
            .worker
            .ask(&format!("scene {file} {people} {dim} {FIRST_LAP}"))?;
        let shown = answer.strip_prefix("tracks ").unwrap_or_default();
        shown.parse().with_context(|| format!("answer `{answer}`"))
    }

    fn run(&mut self, updates: usize) -> anyhow::Result<f64> {
        let answer = self.worker.ask(&format!("run {updates}"))?;
        answer.parse().with_context(|| format!("answer `{answer}`"))
    }
}

/// Trackers that do the same work; the first is mtmc's.
struct Family {
    title: &'static str,
    dim: usize,
    runners: Vec<Box<dyn Runner>>,
}

impl Family {
    fn add_python(&mut self, python: Option<&Path>, names: &[&str]) -> anyhow::Result<()> {
        let Some(python) = python else { return Ok(()) };
        let with_embeddings = self.dim > 0;
        for name in names {
            self.runners.push(Box::new(Remote {
                label: format!("{name} (Python)"),
                worker: Worker::start(python, name, with_embeddings)?,
                with_embeddings,
            }));
        }
        Ok(())
    }
}

fn byte_track(_: usize) -> Mtmc {
    quality::own(
        TrackerSettings::ByteTrack(quality::byte_track_settings()),
        false,
    )
}

fn bot_sort(_: usize) -> Mtmc {
    quality::own(
        TrackerSettings::BotSort(quality::bot_sort_settings()),
        false,
    )
}

fn families(python: Option<&Path>) -> anyhow::Result<Vec<Family>> {
    let mut byte = Family {
        title: "ByteTrack",
        dim: 0,
        runners: vec![
            local("mtmc ByteTrack", byte_track),
            local("trackforge ByteTrack", |_| {
                ForgeByteTrack(quality::forge_byte_track())
            }),
            local("similari SORT, 1 thread", |_| SimilariSort::new(1)),
            local("similari SORT, 2 threads", |_| SimilariSort::new(2)),
        ],
    };
    byte.add_python(
        python,
        &[
            "trackers-bytetrack",
            "boxmot-bytetrack",
            "ultralytics-bytetrack",
        ],
    )?;
    let mut bot = Family {
        title: "BoT-SORT without appearance",
        dim: 0,
        runners: vec![
            local("mtmc BoT-SORT", bot_sort),
            local("trackforge BoT-SORT", |_| {
                ForgeBotSort(quality::forge_bot_sort())
            }),
        ],
    };
    bot.add_python(
        python,
        &["trackers-botsort", "boxmot-botsort", "ultralytics-botsort"],
    )?;
    let mut looks = Family {
        title: "BoT-SORT with vectors of 512 numbers",
        dim: scene::DIM,
        runners: vec![
            local("mtmc BoT-SORT", bot_sort),
            local("trackforge BoT-SORT", |_| {
                ForgeBotSort(quality::forge_bot_sort())
            }),
            local("similari visual SORT, 1 thread", |_| SimilariVisual::new(1)),
            local("similari visual SORT, 2 threads", |_| {
                SimilariVisual::new(2)
            }),
        ],
    };
    looks.add_python(python, &["boxmot-botsort"])?;
    Ok(vec![byte, bot, looks])
}

/// Times all families and prints a table for each.
///
/// # Errors
/// Python cannot be started or ends, or the scene's file cannot be written.
pub fn run(args: &SpeedArgs) -> anyhow::Result<()> {
    let file = std::env::temp_dir().join(format!("mtmc-bench-scene-{}", std::process::id()));
    let result = time_all(args, &file);
    let _ = fs::remove_file(&file);
    result
}

fn time_all(args: &SpeedArgs, file: &Path) -> anyhow::Result<()> {
    for mut family in families(args.python.as_deref())? {
        let mut columns = Vec::new();
        for &people in &args.people {
            let frames = scene::frames(people, family.dim > 0);
            fs::write(file, scene::bytes(&frames)).with_context(|| file.display().to_string())?;
            let scene = Scene {
                people,
                dim: family.dim,
                frames,
                file: file.to_path_buf(),
            };
            columns.push(time_scene(&mut family.runners, &scene, args.rounds)?);
        }
        print_table(&family, &args.people, &columns);
    }
    Ok(())
}

/// Median seconds an update of every runner, and the tracks each shows.
fn time_scene(
    runners: &mut [Box<dyn Runner>],
    scene: &Scene,
    rounds: usize,
) -> anyhow::Result<Vec<(f64, usize)>> {
    let bar = ProgressBar::new((rounds * runners.len()) as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    let mut shown = Vec::new();
    let mut updates = Vec::new();
    for runner in runners.iter_mut() {
        bar.set_message(format!(
            "{} people: {} warms up",
            scene.people,
            runner.name()
        ));
        shown.push(runner.start(scene)?);
        let each = runner.run(SHORTEST)? / SHORTEST as f64;
        updates.push(((TURN / each) as usize).clamp(SHORTEST, 100_000));
    }
    let mut seconds = vec![Vec::new(); runners.len()];
    for round in 0..rounds {
        for turn in 0..runners.len() {
            // Nobody always comes after the same neighbour's first round.
            let place = (turn + round) % runners.len();
            bar.set_message(format!(
                "{} people: {}",
                scene.people,
                runners[place].name()
            ));
            runners[place].run(WARM_UP.min(updates[place]))?;
            let taken = runners[place].run(updates[place])?;
            seconds[place].push(taken / updates[place] as f64);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let medians = seconds.iter_mut().map(|times| median(times));
    Ok(medians.zip(shown).collect())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Microseconds an update, how many times the first row's that is, and the tracks shown.
fn print_table(family: &Family, people: &[usize], columns: &[Vec<(f64, usize)>]) {
    println!(
        "\n{}, µs an update (times mtmc's; tracks shown)\n",
        family.title
    );
    let heads: Vec<String> = people.iter().map(|n| format!(" {n} people |")).collect();
    println!("| |{}", heads.concat());
    println!("|---|{}", "---|".repeat(people.len()));
    for (row, runner) in family.runners.iter().enumerate() {
        let mut line = format!("| {} |", runner.name());
        for column in columns {
            let (first, _) = column[0];
            let (seconds, shown) = column[row];
            let micros = 1e6 * seconds;
            let digits = if micros < 100.0 { 1 } else { 0 };
            line += &format!(" {micros:.digits$} ({:.1}×; {shown}) |", seconds / first);
        }
        println!("{line}");
    }
}
