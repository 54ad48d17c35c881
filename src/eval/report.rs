//! All figures of sequences and of them together: as a table, and as JSON.

use serde::Serialize;

use super::EvalSequence;
use super::clear::{Clear, Rules};
use super::hota::{ALPHAS, Hota, alpha, mean};
use super::identity::Identity;

/// Name of the row that puts all sequences together, as TrackEval's CSV calls it.
pub const COMBINED: &str = "COMBINED";

/// What was measured of one sequence, or of several together.
#[derive(Debug, Clone, PartialEq)]
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
    /// True boxes.
    pub truth_boxes: u64,
    /// The tracker's boxes, without those that the preparation took out.
    pub track_boxes: u64,
}

impl Measured {
    /// Measures one sequence by TrackEval's rules.
    pub fn of(sequence: &EvalSequence) -> Self {
        Self::by(sequence, Rules::TrackEval)
    }

    /// Measures one sequence, CLEAR by `rules`.
    pub fn by(sequence: &EvalSequence, rules: Rules) -> Self {
        Self::with_clear(sequence, Clear::of(sequence, rules))
    }

    /// Measures one sequence but for CLEAR, which is given.
    pub(super) fn with_clear(sequence: &EvalSequence, clear: Clear) -> Self {
        let (truth_boxes, track_boxes) = sequence.boxes();
        Self {
            clear,
            identity: Identity::of(sequence),
            hota: Hota::of(sequence),
            truths: sequence.truths,
            tracks: sequence.tracks,
            truth_boxes,
            track_boxes,
        }
    }

    /// Puts sequences together: counts are added, ratios computed from them anew.
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
            truth_boxes: sequences.iter().map(|sequence| sequence.truth_boxes).sum(),
            track_boxes: sequences.iter().map(|sequence| sequence.track_boxes).sum(),
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
            detre: mean(&hota.det_re()),
            detpr: mean(&hota.det_pr()),
            assre: mean(&hota.ass_re),
            asspr: mean(&hota.ass_pr),
            owta: mean(&hota.owta()),
            mota: clear.mota(),
            motp: clear.motp(),
            moda: clear.moda(),
            smota: clear.smota(),
            motal: clear.motal(),
            recall: clear.recall(),
            precision: clear.precision(),
            idf1: identity.idf1(),
            idp: identity.idp(),
            idr: identity.idr(),
            mt: clear.mostly_tracked,
            pt: clear.partly_tracked,
            ml: clear.mostly_lost,
            tp: clear.true_positives,
            fp: clear.false_positives,
            r#fn: clear.false_negatives,
            idsw: clear.id_switches,
            frag: clear.fragmentations,
            idtp: identity.true_positives,
            idfp: identity.false_positives,
            idfn: identity.false_negatives,
            frames: clear.frames,
            gt_boxes: self.truth_boxes,
            boxes: self.track_boxes,
            gt_ids: self.truths,
            ids: self.tracks,
        }
    }

    /// The figures with HOTA's curves, for JSON.
    pub fn report(&self) -> Report {
        let hota = &self.hota;
        Report {
            figures: self.figures(),
            curves: Curves {
                alpha: std::array::from_fn(alpha),
                hota: hota.hota(),
                deta: hota.det_a(),
                assa: hota.ass_a,
                loca: hota.loc_a,
                detre: hota.det_re(),
                detpr: hota.det_pr(),
                assre: hota.ass_re,
                asspr: hota.ass_pr,
                owta: hota.owta(),
            },
        }
    }
}

/// Measured sequences by name, and all of them together where there is more than one: the rows of
/// a table.
pub fn with_combined(mut rows: Vec<(String, Measured)>) -> Vec<(String, Measured)> {
    if rows.len() > 1 {
        let measured: Vec<Measured> = rows.iter().map(|(_, measured)| measured.clone()).collect();
        rows.push((COMBINED.to_string(), Measured::combine(&measured)));
    }
    rows
}

/// The figures that are published; ratios as fractions of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)] // the field's own abbreviations, explained in the modules that compute them
pub struct Figures {
    pub hota: f64,
    pub deta: f64,
    pub assa: f64,
    pub loca: f64,
    pub detre: f64,
    pub detpr: f64,
    pub assre: f64,
    pub asspr: f64,
    pub owta: f64,
    pub mota: f64,
    pub motp: f64,
    pub moda: f64,
    pub smota: f64,
    pub motal: f64,
    pub recall: f64,
    pub precision: f64,
    pub idf1: f64,
    pub idp: f64,
    pub idr: f64,
    pub mt: u64,
    pub pt: u64,
    pub ml: u64,
    pub tp: u64,
    pub fp: u64,
    pub r#fn: u64,
    pub idsw: u64,
    pub frag: u64,
    pub idtp: u64,
    pub idfp: u64,
    pub idfn: u64,
    pub frames: u64,
    pub gt_boxes: u64,
    pub boxes: u64,
    pub gt_ids: usize,
    pub ids: usize,
}

/// HOTA and its parts at every threshold `alpha`, as fractions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)] // as above
pub struct Curves {
    pub alpha: [f64; ALPHAS],
    pub hota: [f64; ALPHAS],
    pub deta: [f64; ALPHAS],
    pub assa: [f64; ALPHAS],
    pub loca: [f64; ALPHAS],
    pub detre: [f64; ALPHAS],
    pub detpr: [f64; ALPHAS],
    pub assre: [f64; ALPHAS],
    pub asspr: [f64; ALPHAS],
    pub owta: [f64; ALPHAS],
}

/// Everything of one sequence, or of several together, as JSON has it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Report {
    /// The single figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// HOTA over its thresholds.
    pub curves: Curves,
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
