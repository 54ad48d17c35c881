//! The service: tasks over REST, what they find live over WebSocket.
//!
//! [`serve`] runs it until it is told to stop. One [`App`] holds all that requests share; every
//! area of the interface is a file of [`api`], with its part of the OpenAPI document. Tasks run the
//! [`pipeline`](crate::pipeline) on threads of their own ([`tasks`]); what it finds goes to each
//! task's [`live::Hub`] and to the store. No request waits for a network, none holds a lock over an
//! `await`, and none can panic the process.

pub mod api;
pub mod auth;
pub mod catalog;
mod connections;
pub mod disk;
mod envelope;
pub mod idempotency;
pub mod limits;
pub mod live;
pub mod logs;
pub mod memory;
pub mod messages;
pub mod metrics;
pub mod networks;
pub mod people;
pub mod problem;
pub mod settings;
pub mod tasks;
pub mod tls;
#[cfg(feature = "otel")]
pub mod traces;
pub mod uploads;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum_server::Handle;
use tracing::{info, warn};

use auth::Auth;
use catalog::Catalog;
use idempotency::Idempotency;
use limits::Limits;
use memory::{MemoryGuard, Probe};
use metrics::Metrics;
use networks::ServiceNetworks;
use settings::ServiceSettings;
use tasks::Tasks;
use uploads::Uploads;

use crate::store::{RetentionPolicy, Store, StoreSettings};

/// All that requests share.
pub struct App {
    /// How the service runs.
    pub settings: ServiceSettings,
    /// The environments that tasks can be started for.
    pub catalog: Catalog,
    /// The networks, shared by all tasks.
    pub networks: Arc<ServiceNetworks>,
    /// All that outlives the process.
    pub store: Store,
    /// The tasks.
    pub tasks: Tasks,
    /// Videos that came by upload.
    pub uploads: Uploads,
    /// Requests that must not be done twice.
    pub idempotency: Idempotency,
    /// The sockets that are open.
    pub sockets: live::Sockets,
    /// Recognises callers.
    pub auth: Arc<Auth>,
    /// Counts what callers ask for.
    pub limits: Limits,
    /// When the service started.
    pub started: Instant,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How full memory is.
    pub memory: Arc<MemoryGuard>,
    stopping: AtomicBool,
}

/// What handlers get.
pub type SharedApp = Arc<App>;

impl App {
    /// A service that serves nobody yet.
    ///
    /// # Errors
    /// The data folder cannot be made; the store cannot be opened; the keys of callers make no sense.
    pub async fn new(
        settings: ServiceSettings,
        catalog: Catalog,
        networks: ServiceNetworks,
    ) -> anyhow::Result<SharedApp> {
        make_data_dir(&settings)?;
        let networks = Arc::new(networks);
        let metrics = settings.watch.metrics.clone();
        let throttle = settings.watch.throttle.clone();
        let memory = Arc::new(MemoryGuard::new(settings.memory, throttle));
        let store = Store::open(StoreSettings::new(settings.database_address())).await?;
        let tasks = Tasks::new(&settings, networks.clone(), store.clone());
        tasks.recover(&catalog).await?;
        let idempotency = Idempotency::default();
        idempotency.attach(store.clone());
        let uploads = Uploads::new(&settings, networks.clone(), idempotency.clone())?;
        let auth = Arc::new(Auth::new(settings.auth.clone())?);
        auth.use_store(store.clone()).await?;
        let limits = Limits::new(&settings.limits);
        Ok(Arc::new(Self {
            auth,
            limits,
            settings,
            catalog,
            networks,
            store,
            tasks,
            uploads,
            idempotency,
            sockets: live::Sockets::default(),
            started: Instant::now(),
            metrics,
            memory,
            stopping: AtomicBool::new(false),
        }))
    }

    /// Whether the service was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// How long requests and sockets that are open may take to end once the service is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Whether a service of these settings may listen where they say, without all else that it takes:
/// [`serve`] checks that again.
///
/// # Errors
/// It would be open to others without a key; the store cannot be opened; the keys of callers make no
/// sense.
pub async fn check_address(settings: &ServiceSettings) -> anyhow::Result<()> {
    let auth = Auth::new(settings.auth.clone())?;
    // What asks for no key of the store; `serve` tells what there is to tell.
    if settings.auth.insecure_no_auth || auth.check_address(settings.listen).is_ok() {
        return Ok(());
    }
    make_data_dir(settings)?;
    let store = Store::open(StoreSettings::new(settings.database_address())).await?;
    let keys = store.api_keys().await.context("API keys");
    store.close().await?;
    auth.keys().replace(keys?);
    auth.check_address(settings.listen)
}

fn make_data_dir(settings: &ServiceSettings) -> anyhow::Result<()> {
    std::fs::create_dir_all(&settings.data_dir)
        .with_context(|| settings.data_dir.display().to_string())
}

/// Serves until `shutdown` completes; `listening` hears the address, whose port the system chose if
/// the settings say 0.
///
/// Running tasks are stopped with a snapshot where they can be resumed.
///
/// # Errors
/// The address cannot be listened on, or is open to others without a key; the certificate cannot be
/// read.
pub async fn serve(
    app: SharedApp,
    shutdown: impl Future<Output = ()> + Send + 'static,
    listening: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let address = app.settings.listen;
    app.auth.check_address(address)?;
    let tls = app.settings.tls.clone().map(tls::watch).transpose()?;
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    listening(listener.local_addr()?);
    tokio::spawn(MemoryGuard::watch(
        Arc::downgrade(&app.memory),
        Probe::system(),
    ));
    app.uploads.start();
    let retaining = tokio::spawn(retain(app.store.clone(), app.settings.retention));
    let handle = Handle::new();
    let stopped = app.clone();
    let ending = handle.clone();
    tokio::spawn(async move {
        shutdown.await;
        stopped.stopping.store(true, Ordering::Relaxed);
        info!("stopping");
        tokio::join!(stopped.tasks.shut_down(), stopped.uploads.shut_down());
        ending.graceful_shutdown(Some(GRACE));
    });
    let (router, _) = api::router(app.clone());
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let permits = app.limits.connections.clone();
    let served = connections::serve(
        listener,
        tls,
        &app.settings.limits,
        permits,
        handle,
        service,
    );
    let served = served.await;
    retaining.abort();
    app.store.close().await?;
    served?;
    Ok(())
}

/// Time between two times that the store is cleared of what is too old or too much.
const RETAIN_EVERY: Duration = Duration::from_secs(10 * 60);

/// Clears the store now and then.
async fn retain(store: Store, policy: RetentionPolicy) {
    loop {
        let now_ms = messages::moment::now().as_millisecond();
        match store.retain(&policy, now_ms).await {
            Ok(gone) if gone.positions + gone.tasks + gone.people > 0 => {
                info!(
                    positions = gone.positions,
                    tasks = gone.tasks,
                    people = gone.people,
                    "what was too old or too much was removed from the store"
                );
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "the store could not be cleared of what is too old"),
        }
        tokio::time::sleep(RETAIN_EVERY).await;
    }
}
