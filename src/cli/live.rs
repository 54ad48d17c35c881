//! Options for what sockets get.

use std::time::Duration;

use clap::{ArgAction, Args};

use crate::config::truth;
use crate::service::settings::ServiceSettings;

/// What sockets get.
#[derive(Debug, Args)]
#[command(next_help_heading = "Messages")]
pub struct LiveArgs {
    /// Whether frames are sent with boxes and identities drawn on them
    #[arg(long, env = "DETECTION_ANNOTATION_ENABLED", value_name = "BOOL", default_value = "true",
          action = ArgAction::Set, value_parser = switch)]
    annotation: bool,

    /// Whether frames are sent as they came
    #[arg(long, env = "DETECTION_SAVE_ORIGINAL_FRAMES", value_name = "BOOL", default_value = "true",
          action = ArgAction::Set, value_parser = switch)]
    originals: bool,

    /// Seconds between two pings of a socket, and after which an idle one gets a heartbeat
    #[arg(long, env = "MTMC_HEARTBEAT", value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u16).range(1..=3600))]
    heartbeat: u16,
}

/// Parses a truth value; an empty variable counts as none, and both are on by default.
fn switch(text: &str) -> Result<bool, String> {
    if text.is_empty() {
        return Ok(true);
    }
    truth(text)
}

impl LiveArgs {
    /// Lays them into the settings.
    pub fn apply(&self, settings: &mut ServiceSettings) {
        settings.annotate = self.annotation;
        settings.originals = self.originals;
        settings.heartbeat = Duration::from_secs(u64::from(self.heartbeat));
    }
}
