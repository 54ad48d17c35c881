//! `mtmc keys`: who may use the service. Works on the store itself, whether the service runs or not;
//! a running one takes notice within seconds.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use crate::service::auth::access::Role;
use crate::service::auth::keys::{MAX_KEYS, NewKey};
use crate::service::settings::ServiceSettings;
use crate::store::{ApiKeyRecord, Store, StoreSettings};

/// Arguments of `mtmc keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key; it is printed this once
    Create(CreateArgs),
    /// List keys, without their secrets
    List(ListArgs),
    /// Revoke a key: it cannot be used any more
    Revoke(RevokeArgs),
}

/// Where the keys are.
#[derive(Debug, Args)]
struct Place {
    /// Folder of all that the service keeps
    #[arg(
        long,
        env = "MTMC_DATA_DIR",
        value_name = "DIR",
        default_value = "mtmc-data"
    )]
    data_dir: PathBuf,

    /// The service's store if it is not in that folder: a SQLite file or postgres://…
    #[arg(
        long,
        env = "MTMC_DATABASE",
        hide_env_values = true,
        value_name = "DATABASE"
    )]
    database: Option<String>,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Whose key it is
    #[arg(long)]
    name: String,

    /// What it may do
    #[arg(long)]
    role: Role,

    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The key's ID, as `mtmc keys list` shows it
    id: String,

    #[command(flatten)]
    place: Place,
}

/// Runs the command.
pub fn run(args: &KeysArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start")?;
    runtime.block_on(async {
        match &args.command {
            KeysCommand::Create(args) => create(args).await,
            KeysCommand::List(args) => list(args).await,
            KeysCommand::Revoke(args) => revoke(args).await,
        }
    })
}

impl Place {
    /// Opens the store; `make` allows to make the folder.
    async fn open(&self, make: bool) -> anyhow::Result<Store> {
        let settings = ServiceSettings {
            data_dir: self.data_dir.clone(),
            database: self.database.clone().filter(|address| !address.is_empty()),
            ..ServiceSettings::default()
        };
        let address = settings.database_address();
        if settings.database.is_none() {
            if make {
                let folder = self.data_dir.display().to_string();
                std::fs::create_dir_all(&self.data_dir).context(folder)?;
            } else if !Path::new(&address).exists() {
                bail!("{address}: there is no store; name its folder with --data-dir");
            }
        }
        Store::open(StoreSettings::new(address))
            .await
            .context("the store of keys")
    }
}

async fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let now = Timestamp::now().as_millisecond();
    let new = NewKey::make(&args.name, args.role, now)?;
    let store = args.place.open(true).await?;
    if store.api_keys().await?.len() >= MAX_KEYS {
        bail!("there are {MAX_KEYS} keys already");
    }
    store.add_api_key(&new.record).await?;
    store.close().await?;
    let record = &new.record;
    writeln!(
        std::io::stderr(),
        "Key {} of {} ({}). It is shown this once:",
        record.id,
        record.name,
        record.role
    )?;
    writeln!(std::io::stdout(), "{}", new.secret.expose())?;
    Ok(())
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let store = args.place.open(false).await?;
    let records = store.api_keys().await?;
    store.close().await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let entries: Vec<_> = records.iter().map(entry).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&entries)?)?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<14}{:<10}{:<22}{:<22}NAME",
        "ID", "ROLE", "CREATED", "REVOKED"
    )?;
    for record in &records {
        let revoked = record.revoked_ms.map_or("-".to_string(), time);
        let created = time(record.created_ms);
        let ApiKeyRecord { id, role, name, .. } = record;
        writeln!(out, "{id:<14}{role:<10}{created:<22}{revoked:<22}{name}")?;
    }
    Ok(())
}

fn entry(record: &ApiKeyRecord) -> serde_json::Value {
    serde_json::json!({
        "id": record.id,
        "name": record.name,
        "role": record.role,
        "created": time(record.created_ms),
        "revoked": record.revoked_ms.map(time),
    })
}

/// A time in UTC, to the second.
fn time(ms: i64) -> String {
    match Timestamp::from_second(ms.div_euclid(1000)) {
        Ok(time) => time.to_string(),
        Err(_) => ms.to_string(),
    }
}

async fn revoke(args: &RevokeArgs) -> anyhow::Result<()> {
    let store = args.place.open(false).await?;
    let known = store.api_key(&args.id).await?;
    let Some(record) = known else {
        bail!(
            "there is no key {}: `mtmc keys list` shows those that there are",
            args.id
        );
    };
    let now = Timestamp::now().as_millisecond();
    let revoked = store.revoke_api_key(&args.id, now).await?;
    store.close().await?;
    let what = if revoked {
        "is revoked"
    } else {
        "was revoked before"
    };
    writeln!(std::io::stdout(), "{} of {} {what}", record.id, record.name)?;
    Ok(())
}
