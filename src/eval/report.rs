//! All figures of sequences and of them together: as a table, as JSON, as CSV.

use serde::Serialize;

use super::EvalSequence;
use super::clear::Clear;
use super::hota::{Hota, mean};
use super::identity::Identity;

/// What was measured of one sequence, or of several together.
#[derive(Debug, Clone)]
pub struct Measured {
    /// CLEAR MOT.
    pub clear: Clear,
    /// Identity.
    pub identity: Identity,
    /// HOTA at every threshold.
    pub hota: Hota,
    /// True identities.
    pub truths: usize,
    /// The tracker's identities.
    pub tracks: usize,
}

impl Measured {
    /// Measures one sequence.
    pub fn of(sequence: &EvalSequence) -> Self {
        Self {
            clear: Clear::of(sequence),
            identity: Identity::of(sequence),
            hota: Hota::of(sequence),
            truths: sequence.truths,
            tracks: sequence.tracks,
        }
    }

    /// Puts sequences together.
    pub fn combine(sequences: &[Self]) -> Self {
        let mut clear = Clear::default();
        let mut identity = Identity::default();
        for sequence in sequences {
            clear.add(&sequence.clear);
            identity.add(&sequence.identity);
        }
        let hotas: Vec<Hota> = sequences.iter().map(|sequence| sequence.hota).collect();
        Self {
            clear,
            identity,
            hota: Hota::combine(&hotas),
            truths: sequences.iter().map(|sequence| sequence.truths).sum(),
            tracks: sequences.iter().map(|sequence| sequence.tracks).sum(),
        }
    }

    /// The figures that are published, ratios as fractions.
    pub fn figures(&self) -> Figures {
        let (clear, identity, hota) = (&self.clear, &self.identity, &self.hota);
        Figures {
            hota: mean(&hota.hota()),
            deta: mean(&hota.det_a()),
            assa: mean(&hota.ass_a),
            loca: mean(&hota.loc_a),
            mota: clear.mota(),
            motp: clear.motp(),
            recall: clear.recall(),
            precision: clear.precision(),
            idf1: identity.idf1(),
            idp: identity.idp(),
            idr: identity.idr(),
            mt: clear.mostly_tracked,
            pt: clear.partly_tracked,
            ml: clear.mostly_lost,
            fp: clear.false_positives,
            r#fn: clear.false_negatives,
            idsw: clear.id_switches,
            frag: clear.fragmentations,
            frames: clear.frames,
            gt_ids: self.truths,
            ids: self.tracks,
        }
    }
}

/// The figures that are published; ratios as fractions of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)] // the field's own abbreviations, explained in the modules that compute them
pub struct Figures {
    pub hota: f64,
    pub deta: f64,
    pub assa: f64,
    pub loca: f64,
    pub mota: f64,
    pub motp: f64,
    pub recall: f64,
    pub precision: f64,
    pub idf1: f64,
    pub idp: f64,
    pub idr: f64,
    pub mt: u64,
    pub pt: u64,
    pub ml: u64,
    pub fp: u64,
    pub r#fn: u64,
    pub idsw: u64,
    pub frag: u64,
    pub frames: u64,
    pub gt_ids: usize,
    pub ids: usize,
}

/// A table for people: a line a sequence, ratios in percent.
pub fn table(rows: &[(String, Figures)]) -> String {
    use std::fmt::Write as _;
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0)
        .max(8);
    let mut text = format!("{:width$}", "");
    for head in [
        "HOTA", "DetA", "AssA", "LocA", "MOTA", "MOTP", "IDF1", "IDP", "IDR",
    ] {
        let _ = write!(text, " {head:>6}");
    }
    for head in ["MT", "PT", "ML", "FP", "FN", "IDSW", "Frag"] {
        let _ = write!(text, " {head:>6}");
    }
    text.push('\n');
    for (name, f) in rows {
        let _ = write!(text, "{name:width$}");
        for ratio in [
            f.hota, f.deta, f.assa, f.loca, f.mota, f.motp, f.idf1, f.idp, f.idr,
        ] {
            let _ = write!(text, " {:>6.2}", ratio * 100.0);
        }
        for count in [f.mt, f.pt, f.ml, f.fp, f.r#fn, f.idsw, f.frag] {
            let _ = write!(text, " {count:>6}");
        }
        text.push('\n');
    }
    text
}
