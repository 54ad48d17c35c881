//! Measured sequences as CSV, with the columns and names of TrackEval's `pedestrian_detailed.csv`.

use std::fmt::Write as _;

use super::hota::{ALPHAS, mean};
use super::report::Measured;

/// A line a sequence under a line of names; numbers in full precision.
pub fn detailed(rows: &[(String, Measured)]) -> String {
    let mut text = String::from("seq");
    let names = Measured::combine(&[]);
    for (name, _) in columns(&names) {
        let _ = write!(text, ",{name}");
    }
    text.push('\n');
    for (sequence, measured) in rows {
        text.push_str(&quoted(sequence));
        for (_, value) in columns(measured) {
            let _ = write!(text, ",{value}");
        }
        text.push('\n');
    }
    text
}

/// A name as a CSV field.
fn quoted(name: &str) -> String {
    if name.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", name.replace('"', "\"\""))
    } else {
        name.to_string()
    }
}

/// TrackEval's columns in its order: name and value, ratios as fractions.
pub fn columns(measured: &Measured) -> Vec<(String, f64)> {
    let hota = &measured.hota;
    let mut columns = Vec::with_capacity(35 + 12 * (ALPHAS + 1));
    let first = hota.hota()[0];
    let plain = [
        ("HOTA(0)", first),
        ("LocA(0)", hota.loc_a[0]),
        ("HOTALocA(0)", first * hota.loc_a[0]),
    ];
    columns.extend(plain.map(|(name, value)| (name.to_string(), value)));
    let curves = [
        ("HOTA", hota.hota()),
        ("DetA", hota.det_a()),
        ("AssA", hota.ass_a),
        ("DetRe", hota.det_re()),
        ("DetPr", hota.det_pr()),
        ("AssRe", hota.ass_re),
        ("AssPr", hota.ass_pr),
        ("LocA", hota.loc_a),
        ("OWTA", hota.owta()),
        ("HOTA_TP", hota.true_positives),
        ("HOTA_FN", hota.false_negatives),
        ("HOTA_FP", hota.false_positives),
    ];
    for (name, curve) in curves {
        for (index, value) in curve.iter().enumerate() {
            // Thresholds go in steps of 5 %.
            columns.push((format!("{name}___{}", (index + 1) * 5), *value));
        }
        columns.push((format!("{name}___AUC"), mean(&curve)));
    }
    columns.extend(counted(measured).map(|(name, value)| (name.to_string(), value)));
    columns
}

/// CLEAR, Identity and the counts of boxes and identities.
fn counted(measured: &Measured) -> [(&'static str, f64); 32] {
    let (clear, identity) = (&measured.clear, &measured.identity);
    let [mtr, ptr, mlr] = clear.tracked_ratios();
    [
        ("MOTA", clear.mota()),
        ("MOTP", clear.motp()),
        ("MODA", clear.moda()),
        ("CLR_Re", clear.recall()),
        ("CLR_Pr", clear.precision()),
        ("MTR", mtr),
        ("PTR", ptr),
        ("MLR", mlr),
        ("sMOTA", clear.smota()),
        ("CLR_F1", clear.f1()),
        ("FP_per_frame", clear.false_positives_per_frame()),
        ("MOTAL", clear.motal()),
        ("MOTP_sum", clear.overlap_sum),
        ("CLR_TP", clear.true_positives as f64),
        ("CLR_FN", clear.false_negatives as f64),
        ("CLR_FP", clear.false_positives as f64),
        ("IDSW", clear.id_switches as f64),
        ("MT", clear.mostly_tracked as f64),
        ("PT", clear.partly_tracked as f64),
        ("ML", clear.mostly_lost as f64),
        ("Frag", clear.fragmentations as f64),
        ("CLR_Frames", clear.frames as f64),
        ("IDF1", identity.idf1()),
        ("IDR", identity.idr()),
        ("IDP", identity.idp()),
        ("IDTP", identity.true_positives as f64),
        ("IDFN", identity.false_negatives as f64),
        ("IDFP", identity.false_positives as f64),
        ("Dets", measured.track_boxes as f64),
        ("GT_Dets", measured.truth_boxes as f64),
        ("IDs", measured.tracks as f64),
        ("GT_IDs", measured.truths as f64),
    ]
}
