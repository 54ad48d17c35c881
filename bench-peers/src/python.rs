//! A Python tracker in a process of its own, spoken to in lines: see speed.py.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};

/// The folder of the scripts, beside this package's manifest.
pub fn scripts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A running speed.py.
pub struct Worker {
    name: String,
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a worker for one of peers.py's trackers.
    ///
    /// # Errors
    /// The interpreter cannot be started.
    pub fn start(python: &Path, name: &str, with_embeddings: bool) -> anyhow::Result<Self> {
        let mut command = Command::new(python);
        command.arg(scripts().join("speed.py")).arg(name);
        if with_embeddings {
            command.arg("--embeddings");
        }
        // One thread each, as the Rust trackers have.
        for pool in ["OMP", "MKL", "OPENBLAS"] {
            command.env(format!("{pool}_NUM_THREADS"), "1");
        }
        // What packages print while they start is of no use; what goes wrong is seen in `ask`.
        let stderr = if std::env::var_os("MTMC_BENCH_VERBOSE").is_some() {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| python.display().to_string())?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{name}: no pipes");
        };
        Ok(Self {
            name: name.to_owned(),
            child,
            commands: Some(commands),
            answers: BufReader::new(answers),
        })
    }

    /// One command, one answer.
    ///
    /// # Errors
    /// The worker has ended; MTMC_BENCH_VERBOSE=1 shows what it said.
    pub fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        let ended = || {
            let name = &self.name;
            format!("{name}: speed.py ended at `{command}`; MTMC_BENCH_VERBOSE=1 shows why")
        };
        if let Some(pipe) = &mut self.commands {
            writeln!(pipe, "{command}").with_context(ended)?;
            pipe.flush().with_context(ended)?;
        }
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.is_empty() {
            bail!(ended());
        }
        Ok(answer.trim().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The worker ends with its input; it is waited for so that none is left behind.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}
