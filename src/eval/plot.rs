//! HOTA, DetA, AssA and LocA over the threshold of localisation, as an SVG picture.

use std::fmt::Write as _;

use super::hota::{ALPHAS, alpha, mean};
use super::report::Measured;

/// One line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Colour as CSS writes it.
    pub colour: &'static str,
    /// Whether the line is dashed.
    pub dashed: bool,
    /// Values at every threshold, 0..=1.
    pub values: [f64; ALPHAS],
}

/// The four curves of one measurement, the means that are published in the legend.
pub fn curves(measured: &Measured) -> Vec<Series> {
    let hota = &measured.hota;
    // Colours that remain apart for colour-blind eyes (Okabe and Ito 2008).
    let all = [
        ("HOTA", "#0072b2", false, hota.hota()),
        ("DetA", "#d55e00", false, hota.det_a()),
        ("AssA", "#009e73", false, hota.ass_a),
        ("LocA", "#777777", true, hota.loc_a),
    ];
    let series = all.map(|(name, colour, dashed, values)| Series {
        name: format!("{name} {:.1}", mean(&values) * 100.0),
        colour,
        dashed,
        values,
    });
    series.into()
}

/// Size of the picture, in pixels.
const SIZE: (f64, f64) = (720.0, 480.0);

/// Left, top, right and bottom edge of the area that is drawn in.
const AREA: [f64; 4] = [70.0, 50.0, 560.0, 420.0];

fn x(value: f64) -> f64 {
    AREA[0] + value * (AREA[2] - AREA[0])
}

fn y(value: f64) -> f64 {
    AREA[3] - value.clamp(0.0, 1.0) * (AREA[3] - AREA[1])
}

/// Draws lines over alpha from 0 to 1, both axes whole.
pub fn draw(title: &str, series: &[Series]) -> String {
    let mut svg = String::new();
    let (width, height) = SIZE;
    // Writing into a String cannot fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"30\" font-size=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        width / 2.0,
        title_size(title),
        escaped(title)
    );
    axes(&mut svg);
    for (index, series) in series.iter().enumerate() {
        line(&mut svg, series, index);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Size at which a title fits into the picture; letters are about 0.56 as wide as they are tall.
fn title_size(title: &str) -> f64 {
    let letters = title.chars().count().max(1) as f64;
    (0.95 * SIZE.0 / (0.56 * letters)).clamp(6.0, 17.0)
}

fn axes(svg: &mut String) {
    let [left, top, right, bottom] = AREA;
    for tenth in (0..=10).step_by(2) {
        let value = f64::from(tenth) / 10.0;
        let (at_x, at_y) = (x(value), y(value));
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {at_y:.1}H{right}M{at_x:.1} {top}V{bottom}\" stroke=\"#dddddd\"/>\n\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <text x=\"{at_x:.1}\" y=\"{}\" text-anchor=\"middle\">{value:.1}</text>",
            left - 8.0,
            at_y + 5.0,
            tenth * 10,
            bottom + 20.0
        );
    }
    let middle = (top + bottom) / 2.0;
    let _ = writeln!(
        svg,
        "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">alpha (IoU a match must reach)</text>\n\
         <text x=\"22\" y=\"{middle}\" text-anchor=\"middle\" \
         transform=\"rotate(-90 22 {middle})\">percent</text>",
        (left + right) / 2.0,
        bottom + 45.0
    );
}

fn line(svg: &mut String, series: &Series, index: usize) {
    let mut points = String::new();
    for (index, value) in series.values.iter().enumerate() {
        let _ = write!(points, "{:.1},{:.1} ", x(alpha(index)), y(*value));
    }
    let dashes = if series.dashed {
        " stroke-dasharray=\"6 4\""
    } else {
        ""
    };
    let style = format!("stroke=\"{}\" stroke-width=\"2.5\"{dashes}", series.colour);
    let (left, top) = (AREA[2] + 18.0, AREA[1] + 14.0 + 26.0 * index as f64);
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" {style}/>\n\
         <path d=\"M{left} {top}h28\" {style}/>\n\
         <text x=\"{}\" y=\"{}\">{}</text>",
        points.trim_end(),
        left + 36.0,
        top + 5.0,
        escaped(&series.name)
    );
}

/// Text that cannot be taken for markup.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: alpha 0.05 and 0.95 lie at 70 + 490 · alpha, 0.5 half-way between 420 and 50.
    #[test]
    fn lines_stand_where_their_values_are() {
        let series = Series {
            name: "half & half".to_string(),
            colour: "red",
            dashed: true,
            values: [0.5; ALPHAS],
        };
        let svg = draw("a<b", &[series]);
        assert!(svg.contains("points=\"94.5,235.0 "), "{svg}");
        assert!(svg.contains(" 535.5,235.0\""), "{svg}");
        assert!(svg.contains("half &amp; half") && svg.contains("a&lt;b"));
        assert_eq!(svg.matches("stroke-dasharray").count(), 2);
    }
}
