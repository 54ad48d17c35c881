//! What is shown while long work goes on, and how it is stopped.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A flag that the first Ctrl-C (or SIGTERM) raises, saying what happens now; the second ends the
/// program at once.
pub fn stop_on_ctrl_c(what: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        let _ = writeln!(std::io::stderr(), "\nstopping: {what} (again to quit now)");
    })
    .context("could not listen for Ctrl-C")?;
    Ok(stop)
}

/// A bar on a terminal, a line now and then elsewhere.
pub struct Progress {
    bar: ProgressBar,
    unit: &'static str,
    plain: Option<std::sync::Mutex<Instant>>,
    started: Instant,
}

/// Time between two plain progress lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

impl Progress {
    /// For `total` steps, if that is known, of which `unit` is the plural name.
    pub fn new(total: Option<u64>, unit: &'static str, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        if quiet || !terminal {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = if total.is_some() {
            format!(
                "{{bar:40}} {{pos}}/{{len}} {unit}  {{per_sec}}  {{elapsed}} elapsed, {{eta}} left  {{msg}}"
            )
        } else {
            format!("{{spinner}} {{pos}} {unit}  {{per_sec}}  {{elapsed}} elapsed  {{msg}}")
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        let started = Instant::now();
        let plain = (!quiet && !terminal).then(|| std::sync::Mutex::new(started));
        Self {
            bar,
            unit,
            plain,
            started,
        }
    }

    /// So many steps are done.
    pub fn update(&self, steps: u64) {
        self.bar.set_position(steps);
        let Some(last) = &self.plain else { return };
        let Ok(mut last) = last.lock() else { return };
        if last.elapsed() < LINE_INTERVAL {
            return;
        }
        *last = Instant::now();
        let rate = steps as f64 / self.started.elapsed().as_secs_f64();
        let total = match self.bar.length() {
            Some(total) => format!("/{total}"),
            None => String::new(),
        };
        let _ = writeln!(
            std::io::stderr(),
            "{steps}{total} {}, {rate:.1} a second {}",
            self.unit,
            self.bar.message()
        );
    }

    /// What is being worked on, or has been reached.
    pub fn message(&self, text: String) {
        self.bar.set_message(text);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
