//! How re-ID data sets are laid out, as an argument.

use clap::ValueEnum;

use crate::train::data::Kind;

/// Layouts of data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindName {
    /// By what is in the folder
    Detect,
    /// Market-1501, and made-up sets
    Market1501,
    /// What `mtmc data prepare market1501` writes
    Prepared,
    /// DukeMTMC-reID
    Duke,
    /// MSMT17
    Msmt17,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Detect => Self::Detect,
            KindName::Market1501 => Self::Market1501,
            KindName::Prepared => Self::Prepared,
            KindName::Duke => Self::DukeMtmc,
            KindName::Msmt17 => Self::Msmt17,
        }
    }
}
