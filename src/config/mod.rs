//! Settings of an environment: a place, its cameras, how people get from one to the other, and how
//! they are followed. One place, documented in `docs/environment.md`.
//!
//! What counts, from the strongest: a flag, an environment variable, the TOML file, the default.
//! [`Environment::load`] reads and checks all of it and reports all errors of a file at once, each
//! with its line; variables and flags are [`Overrides`], listed in [`VARIABLES`].
//!
//! ```
//! use mtmc::config::{Environment, Overrides};
//!
//! let text = r#"
//!     id = "lobby"
//!     [[cameras]]
//!     id = "door"
//!     zones = [{ x_min = 0.8 }]
//!     [[cameras]]
//!     id = "hall"
//!     [[links]]
//!     cameras = ["door", "hall"]
//!     travel_seconds = [2, 20]
//! "#;
//! let environment = Environment::parse(text, "lobby.toml", &Overrides::default())?;
//! assert_eq!(environment.cameras.len(), 2);
//! assert!(environment.topology().allows(0, 1, 5.0));
//! # Ok::<(), mtmc::config::ConfigError>(())
//! ```

mod checks;
mod environment;
mod pairs;
mod problem;
mod read;
mod section;
mod variables;

pub use environment::{
    Camera, CameraLink, EncoderType, Environment, HomographySettings, MAX_CAMERAS, MAX_FILE_BYTES,
    MAX_LINKS, MapSettings, ReidSettings,
};
pub use problem::{ConfigError, Place, Problem};
pub(crate) use variables::truth;
pub use variables::{Overrides, VARIABLES, Variable};
