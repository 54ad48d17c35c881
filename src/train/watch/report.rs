//! A run as one page that needs nothing else: curves, settings, who was hard to tell apart.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Cursor;

use base64::Engine as _;
use image::{ImageFormat, RgbImage};

use super::chart::{Curve, draw};
use super::mlflow::Outcome;
use super::{Epoch, Hard, HardPerson, RunInfo};
use crate::eval::plot::escaped;

const STYLE: &str = "body{font-family:sans-serif;max-width:1320px;margin:2em auto;padding:0 1em;\
color:#222}table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:left;\
border-bottom:1px solid #ddd}td.n,th.n{text-align:right}img{max-width:100%}";

/// People in the matrix of confusions.
const MATRIX: usize = 20;

/// The whole page.
pub(super) fn html(
    run: &RunInfo,
    epochs: &[Epoch],
    outcome: Outcome,
    hard: Option<&Hard>,
) -> String {
    let name = escaped(&run.name);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{name}</h1>\n"
    );
    summary(&mut page, run, epochs, outcome);
    for chart in charts(epochs) {
        page.push_str(&chart);
    }
    if let Some(hard) = hard {
        hardest(&mut page, hard);
    }
    page.push_str("<h2>Settings</h2>\n<table>");
    for (key, value) in &run.parameters {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td></tr>",
            escaped(key),
            escaped(value)
        );
    }
    page.push_str("</table>\n</body></html>\n");
    page
}

fn summary(page: &mut String, run: &RunInfo, epochs: &[Epoch], outcome: Outcome) {
    let ended = match outcome {
        Outcome::Finished => "Finished",
        Outcome::Failed => "Failed",
        Outcome::Interrupted => "Interrupted",
    };
    let seconds: f64 = epochs.iter().map(|epoch| epoch.seconds).sum();
    // Writing into a String cannot fail.
    let _ = write!(
        page,
        "<p>{ended} after {} of {} epochs and {:.0} s of training",
        epochs.len(),
        run.epochs,
        seconds
    );
    let measured = epochs.iter().filter(|epoch| epoch.map.is_some());
    let best = measured.max_by(|a, b| {
        let value = |epoch: &Epoch| epoch.map.unwrap_or(f64::NEG_INFINITY);
        value(a).total_cmp(&value(b))
    });
    if let Some(best) = best {
        let percent = |value: Option<f64>| value.unwrap_or(f64::NAN) * 100.0;
        let _ = write!(
            page,
            ". Best by mAP: epoch {}, mAP {:.2} %, rank-1 {:.2} %",
            best.epoch + 1,
            percent(best.map),
            percent(best.rank1)
        );
    }
    page.push_str(".</p>\n");
}

/// Losses, accuracies, learning rate and speed.
fn charts(epochs: &[Epoch]) -> Vec<String> {
    let names: BTreeSet<&str> = epochs
        .iter()
        .flat_map(|epoch| epoch.losses.iter().map(|(name, _)| name.as_str()))
        .collect();
    let losses: Vec<Curve> = names
        .into_iter()
        .map(|name| {
            curve(name, epochs, |epoch| {
                let found = epoch.losses.iter().find(|(own, _)| own == name);
                found.map(|(_, value)| *value)
            })
        })
        .collect();
    let percent = |value: Option<f64>| value.map(|value| value * 100.0);
    let shares = [
        curve("rank-1", epochs, |epoch| percent(epoch.rank1)),
        curve("mAP", epochs, |epoch| percent(epoch.map)),
        curve("accuracy in training", epochs, |epoch| {
            percent(Some(epoch.accuracy))
        }),
    ];
    let rate = [curve("learning rate", epochs, |epoch| Some(epoch.lr))];
    let speed = [curve("images a second", epochs, |epoch| {
        Some(epoch.images_per_second)
    })];
    vec![
        draw("Loss", &losses),
        draw("Percent", &shares),
        draw("Learning rate", &rate),
        draw("Images a second", &speed),
    ]
}

fn curve(name: &str, epochs: &[Epoch], value: impl Fn(&Epoch) -> Option<f64>) -> Curve {
    let points = epochs
        .iter()
        .filter_map(|epoch| Some([(epoch.epoch + 1) as f64, value(epoch)?]));
    Curve {
        name: name.to_string(),
        points: points.collect(),
    }
}

fn hardest(page: &mut String, hard: &Hard) {
    page.push_str(
        "<h2>Hardest people</h2>\n<table><tr><th>ID</th><th class=\"n\">queries</th>\
         <th class=\"n\">rank-1 %</th><th class=\"n\">found in 10 %</th><th>taken for</th></tr>\n",
    );
    for person in &hard.people {
        let taken = person.taken_for.iter().take(5);
        let taken: Vec<String> = taken.map(|(id, count)| format!("{id} ({count})")).collect();
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{:.1}</td>\
             <td class=\"n\">{:.1}</td><td>{}</td></tr>",
            person.id,
            person.queries,
            person.rank1 * 100.0,
            person.found * 100.0,
            taken.join(", ")
        );
    }
    page.push_str("</table>\n");
    page.push_str(&matrix(&hard.people));
    for (name, picture) in &hard.lists {
        let _ = writeln!(
            page,
            "<h3>{}</h3>\n<img alt=\"ranked list\" src=\"data:image/png;base64,{}\">",
            escaped(name),
            png(picture)
        );
    }
}

/// Rows are the hardest people, columns whom their queries' nearest image showed.
fn matrix(people: &[HardPerson]) -> String {
    let mut columns: Vec<i64> = people.iter().map(|person| person.id).collect();
    for (id, _) in people.iter().flat_map(|person| &person.taken_for) {
        if !columns.contains(id) && columns.len() < MATRIX {
            columns.push(*id);
        }
    }
    if people.iter().all(|person| person.taken_for.is_empty()) {
        return String::new();
    }
    let mut table = "<p>Whom the nearest image showed, in percent of a person's queries:</p>\n\
                     <table><tr><th></th>"
        .to_string();
    for id in &columns {
        let _ = write!(table, "<th class=\"n\">{id}</th>");
    }
    table.push_str("</tr>\n");
    for person in people {
        let _ = write!(table, "<tr><th>{}</th>", person.id);
        for id in &columns {
            table.push_str(&cell(person, *id));
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</table>\n");
    table
}

fn cell(person: &HardPerson, id: i64) -> String {
    let taken = person.taken_for.iter().find(|(other, _)| *other == id);
    let share = match taken {
        _ if id == person.id => person.rank1,
        Some((_, count)) => *count as f64 / person.queries.max(1) as f64,
        None => return "<td></td>".to_string(),
    };
    let colour = if id == person.id {
        "0,158,115"
    } else {
        "213,94,0"
    };
    format!(
        "<td class=\"n\" style=\"background:rgba({colour},{share:.2})\">{:.0}</td>",
        share * 100.0
    )
}

fn png(picture: &RgbImage) -> String {
    let mut bytes = Cursor::new(Vec::new());
    match picture.write_to(&mut bytes, ImageFormat::Png) {
        Ok(()) => base64::engine::general_purpose::STANDARD.encode(bytes.into_inner()),
        // A picture without pixels: the page is worth more than it.
        Err(_) => String::new(),
    }
}
