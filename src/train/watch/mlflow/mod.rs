//! Tells a server of MLflow: parameters, metrics, files.
//!
//! A thread of its own does the talking. What it cannot say at once waits in a bounded queue, so that
//! a server that is slow, down or gone costs training nothing; each kind of trouble is told once.

mod api;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::api::{Api, Failure, Metric, Run, allowed};
use super::RunInfo;

/// File in the run's folder that keeps its ID, for going on with it.
const RUN_FILE: &str = "mlflow.json";

/// Messages that wait for the thread.
const QUEUE: usize = 4096;

/// Metrics that wait for the server; the oldest go first.
const MAX_WAITING: usize = 100_000;

/// Files that wait for the server.
const MAX_FILES: usize = 100;

/// Bytes of files that a server is given a second more for at the end of a run, and how long it is
/// given at most.
const BYTES_A_SECOND: u64 = 2 << 20;
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);

/// Metrics in one call; the API takes 1000.
const METRICS: usize = 500;

/// How long metrics are gathered.
const INTERVAL: Duration = Duration::from_secs(1);

/// First and longest pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Who is asking, for servers that want to know.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Credentials {
    /// Nobody.
    #[default]
    None,
    /// `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`.
    Password {
        /// Name.
        user: String,
        /// Secret.
        password: String,
    },
    /// `MLFLOW_TRACKING_TOKEN`.
    Token(String),
}

impl std::fmt::Debug for Credentials {
    // Secrets are never shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password { .. } => "Password",
            Self::Token(_) => "Token",
        })
    }
}

/// Which server, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MlflowSettings {
    /// Its address, such as `http://127.0.0.1:5000`.
    pub uri: String,
    /// Name of the experiment; made if need be.
    pub experiment: String,
    /// Who is asking.
    pub credentials: Credentials,
    /// Longest wait for the server at the end of a run; large files prolong it.
    pub patience: Duration,
}

impl Credentials {
    /// As MLflow's own clients take them from the environment.
    pub fn from_environment() -> Self {
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(token) = read("MLFLOW_TRACKING_TOKEN") {
            return Self::Token(token);
        }
        let user = read("MLFLOW_TRACKING_USERNAME");
        match (user, read("MLFLOW_TRACKING_PASSWORD")) {
            (Some(user), Some(password)) => Self::Password { user, password },
            _ => Self::None,
        }
    }
}

impl MlflowSettings {
    /// Credentials from the environment; the end waits for half a minute.
    pub fn new(uri: impl Into<String>, experiment: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            experiment: experiment.into(),
            credentials: Credentials::from_environment(),
            patience: Duration::from_secs(30),
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As planned, or by early stop.
    Finished,
    /// By an error.
    Failed,
    /// By whoever runs it.
    Interrupted,
}

/// The run's ID that an earlier session kept in `folder`.
pub(super) fn read_run(folder: &Path) -> Option<KnownRun> {
    let text = std::fs::read(folder.join(RUN_FILE)).ok()?;
    serde_json::from_slice(&text).ok().map(KnownRun)
}

/// A run that goes on.
pub(super) struct KnownRun(Run);

enum Message {
    Metrics(Vec<Metric>),
    File(PathBuf),
    End(Outcome),
}

/// Problems that nobody has been told of yet.
type Problems = Arc<Mutex<VecDeque<String>>>;

/// The thread that talks to the server.
pub(super) struct Mlflow {
    queue: SyncSender<Message>,
    ended: Receiver<Option<String>>,
    problems: Problems,
    patience: Duration,
    lost: bool,
}

impl Mlflow {
    /// Starts the thread; nothing waits for the server.
    pub(super) fn start(
        settings: &MlflowSettings,
        run: &RunInfo,
        folder: &Path,
        known: Option<KnownRun>,
    ) -> Self {
        let (queue, messages) = sync_channel(QUEUE);
        let (end, ended) = sync_channel(1);
        let problems = Problems::default();
        let mut worker = Worker {
            api: Api::new(settings),
            settings: settings.clone(),
            info: run.clone(),
            folder: folder.to_path_buf(),
            known: known.map(|run| run.0),
            run: None,
            waiting: VecDeque::new(),
            files: VecDeque::new(),
            problems: problems.clone(),
            told: BTreeSet::new(),
        };
        std::thread::spawn(move || {
            let left = worker.work(&messages);
            // Whoever stopped waiting does not want to know.
            let _ = end.send(left);
        });
        Self {
            queue,
            ended,
            problems,
            patience: settings.patience,
            lost: false,
        }
    }

    /// Values of one step; `time` in seconds since 1970.
    pub(super) fn metrics(&mut self, time: f64, step: u64, values: Vec<(String, f64)>) {
        let metrics = values.into_iter().map(|(key, value)| Metric {
            key: allowed(&key),
            value,
            timestamp: (time * 1000.0) as i64,
            step,
        });
        let sent = self.queue.try_send(Message::Metrics(metrics.collect()));
        if sent.is_err() && !self.lost {
            self.lost = true;
            tell(
                &self.problems,
                "MLflow: some values are lost, for too many wait".to_string(),
            );
        }
    }

    /// A file of the run, of any size: it is read while it is sent.
    pub(super) fn file(&mut self, path: &Path) {
        let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
        let more = Duration::from_secs(bytes / BYTES_A_SECOND);
        let most = self.patience.max(LONGEST_PATIENCE);
        self.patience = (self.patience + more).min(most);
        // A full queue means that the server is not there, which has been told already.
        let _ = self.queue.try_send(Message::File(path.to_path_buf()));
    }

    /// What went wrong and has not been told.
    pub(super) fn problem(&self) -> Option<String> {
        let problems = self.problems.lock();
        problems.unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Ends the run and waits for the server, but not for long; gives what it never heard.
    pub(super) fn finish(self, outcome: Outcome) -> Option<String> {
        let begun = Instant::now();
        let mut message = Message::End(outcome);
        while let Err(error) = self.queue.try_send(message) {
            if begun.elapsed() > self.patience {
                return Some("MLflow: the server did not hear the end of the run".to_string());
            }
            std::thread::sleep(Duration::from_millis(20));
            message = match error {
                std::sync::mpsc::TrySendError::Full(message)
                | std::sync::mpsc::TrySendError::Disconnected(message) => message,
            };
        }
        let left = self.patience.saturating_sub(begun.elapsed());
        match self.ended.recv_timeout(left) {
            Ok(problem) => problem.or_else(|| self.problem()),
            Err(_) => Some(format!(
                "MLflow: the server did not hear all within {} s",
                self.patience.as_secs()
            )),
        }
    }
}

fn tell(problems: &Problems, text: String) {
    let problems = problems.lock();
    problems
        .unwrap_or_else(PoisonError::into_inner)
        .push_back(text);
}

struct Worker {
    api: Api,
    settings: MlflowSettings,
    info: RunInfo,
    folder: PathBuf,
    known: Option<Run>,
    run: Option<Run>,
    waiting: VecDeque<Metric>,
    files: VecDeque<PathBuf>,
    problems: Problems,
    /// Kinds of problems that were told.
    told: BTreeSet<&'static str>,
}

impl Worker {
    /// Until the run ends; gives what the server never heard.
    fn work(&mut self, messages: &Receiver<Message>) -> Option<String> {
        let mut pause = PAUSE;
        let mut next = Instant::now();
        loop {
            let mut outcome = self.take(messages.recv_timeout(INTERVAL));
            while let Ok(message) = messages.try_recv() {
                outcome = self.take(Ok(message)).or(outcome);
            }
            if let Some(outcome) = outcome {
                return self.end(outcome);
            }
            if Instant::now() < next {
                continue;
            }
            match self.send() {
                Ok(()) => pause = PAUSE,
                Err(reason) => {
                    self.tell_once(
                        "unreachable",
                        format!(
                            "MLflow: {}: {reason}; training goes on, and values wait",
                            self.settings.uri
                        ),
                    );
                    next = Instant::now() + pause;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Files a message; gives the outcome at the end of the run, be it that nobody listens any more.
    fn take(&mut self, message: Result<Message, RecvTimeoutError>) -> Option<Outcome> {
        match message {
            Ok(Message::Metrics(metrics)) => {
                self.waiting.extend(metrics);
                let excess = self.waiting.len().saturating_sub(MAX_WAITING);
                if excess > 0 {
                    self.waiting.drain(..excess);
                    self.tell_once(
                        "lost",
                        "MLflow: the oldest values are lost, for too many wait".to_string(),
                    );
                }
                None
            }
            Ok(Message::File(path)) => {
                if self.files.len() < MAX_FILES {
                    self.files.push_back(path);
                }
                None
            }
            Ok(Message::End(outcome)) => Some(outcome),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Outcome::Failed),
        }
    }

    fn end(&mut self, outcome: Outcome) -> Option<String> {
        if let Err(reason) = self.send() {
            return Some(format!(
                "MLflow: {}: {reason}; {} values and {} files were not sent",
                self.settings.uri,
                self.waiting.len(),
                self.files.len()
            ));
        }
        let run = self.run.as_ref()?;
        let ended = self.api.end(run, outcome, now());
        ended.err().map(|failure| format!("MLflow: {failure}"))
    }

    /// Sends all that waits; what is refused is told once and dropped, for it would be again.
    fn send(&mut self) -> Result<(), String> {
        let run = match &self.run {
            Some(run) => run.clone(),
            None => self.begin()?,
        };
        while !self.waiting.is_empty() {
            let count = self.waiting.len().min(METRICS);
            let some: Vec<Metric> = self.waiting.iter().take(count).cloned().collect();
            let sent = self.api.metrics(&run, &some);
            self.settle(sent, "metrics")?;
            self.waiting.drain(..count);
        }
        while let Some(path) = self.files.front().cloned() {
            let sent = self.api.artifact(&run, &path);
            self.settle(sent, "files")?;
            self.files.pop_front();
        }
        Ok(())
    }

    fn settle(&mut self, sent: Result<(), Failure>, kind: &'static str) -> Result<(), String> {
        match sent {
            Ok(()) => Ok(()),
            Err(Failure::Later(reason)) => Err(reason),
            Err(refused) => {
                self.tell_once(kind, format!("MLflow refuses {kind}: {refused}"));
                Ok(())
            }
        }
    }

    /// Makes the run, or goes on with a known one.
    fn begin(&mut self) -> Result<Run, String> {
        if let Some(known) = self.known.take() {
            match self.api.begin_again(&known) {
                Ok(()) => {
                    self.run = Some(known.clone());
                    return Ok(known);
                }
                // The server has forgotten it: a new one is made.
                Err(Failure::Refused { .. }) => {}
                Err(failure) => {
                    self.known = Some(known);
                    return Err(failure.to_string());
                }
            }
        }
        let text = |failure: Failure| failure.to_string();
        let experiment = self
            .api
            .experiment(&self.settings.experiment)
            .map_err(text)?;
        let run = self
            .api
            .create_run(&experiment, &self.info.name, now())
            .map_err(text)?;
        self.run = Some(run.clone());
        let kept = serde_json::to_vec(&run).unwrap_or_default();
        if let Err(error) = std::fs::write(self.folder.join(RUN_FILE), kept) {
            self.tell_once("kept", format!("{RUN_FILE}: {error}"));
        }
        let sent = self.api.parameters(&run, &self.info.parameters);
        self.settle(sent, "parameters")?;
        Ok(run)
    }

    fn tell_once(&mut self, kind: &'static str, text: String) {
        if self.told.insert(kind) {
            tell(&self.problems, text);
        }
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    (super::now() * 1000.0) as i64
}
