//! Curves over epochs as SVG, to be put into a page.

use std::fmt::Write as _;

use crate::eval::plot::escaped;

/// Colours that remain apart for colour-blind eyes (Okabe and Ito 2008).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

/// Size of a chart, in pixels.
const SIZE: [f64; 2] = [620.0, 320.0];

/// Left, top, right and bottom edge of the area that is drawn in.
const AREA: [f64; 4] = [64.0, 36.0, 470.0, 270.0];

/// Lines that a chart shows at most.
const MAX_CURVES: usize = 12;

/// Points of a line; longer ones are thinned out.
const MAX_POINTS: usize = 500;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curve {
    pub(super) name: String,
    /// Epoch and value; those that are not finite are left out.
    pub(super) points: Vec<[f64; 2]>,
}

/// Axes' ends.
struct Range {
    x: [f64; 2],
    y: [f64; 2],
    step: f64,
}

impl Range {
    fn of(curves: &[Curve]) -> Self {
        let mut x = [f64::INFINITY, f64::NEG_INFINITY];
        let mut y = x;
        for point in curves.iter().flat_map(|curve| &curve.points) {
            x = [x[0].min(point[0]), x[1].max(point[0])];
            y = [y[0].min(point[1]), y[1].max(point[1])];
        }
        let step = nice((y[1] - y[0]) / 5.0);
        Self {
            x: if x[1] > x[0] {
                x
            } else {
                [x[0] - 0.5, x[0] + 0.5]
            },
            y: [
                (y[0] / step).floor() * step,
                ((y[1] / step).floor() + 1.0) * step,
            ],
            step,
        }
    }

    fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [left, top, right, bottom] = AREA;
        [
            left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (right - left),
            bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (bottom - top),
        ]
    }
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn nice(least: f64) -> f64 {
    if !least.is_finite() || least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let enough = factors
        .into_iter()
        .find(|factor| factor * power >= least * 0.999_999);
    enough.unwrap_or(10.0) * power
}

/// Draws lines; nothing, if there is no point.
pub(super) fn draw(title: &str, curves: &[Curve]) -> String {
    let mut curves: Vec<Curve> = curves.iter().take(MAX_CURVES).cloned().collect();
    for curve in &mut curves {
        curve
            .points
            .retain(|point| point.iter().all(|value| value.is_finite()));
        let every = curve.points.len().div_ceil(MAX_POINTS).max(1);
        curve.points = thinned(&curve.points, every);
    }
    curves.retain(|curve| !curve.points.is_empty());
    if curves.is_empty() {
        return String::new();
    }
    let range = Range::of(&curves);
    let [width, height] = SIZE;
    let mut svg = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <text x=\"{}\" y=\"20\" font-size=\"15\">{}</text>",
        AREA[0],
        escaped(title)
    );
    axes(&mut svg, &range);
    for (index, curve) in curves.iter().enumerate() {
        line(&mut svg, curve, index, &range);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Every so many points, and always the last.
fn thinned(points: &[[f64; 2]], every: usize) -> Vec<[f64; 2]> {
    let mut kept: Vec<[f64; 2]> = points.iter().step_by(every).copied().collect();
    if let Some(last) = points.last()
        && !(points.len() - 1).is_multiple_of(every)
    {
        kept.push(*last);
    }
    kept
}

fn axes(svg: &mut String, range: &Range) {
    let [left, top, right, bottom] = AREA;
    let lines = ((range.y[1] - range.y[0]) / range.step).round() as usize;
    for index in 0..=lines {
        let value = range.y[0] + index as f64 * range.step;
        let y = range.place([range.x[0], value])[1];
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            y + 4.0,
            label(value, range.step)
        );
    }
    let step = nice((range.x[1] - range.x[0]) / 8.0).max(1.0);
    let mut value = (range.x[0] / step).ceil() * step;
    while value <= range.x[1] {
        let x = range.place([value, range.y[0]])[0];
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{value:.0}</text>",
            bottom + 17.0
        );
        value += step;
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">epoch</text>",
        (left + right) / 2.0,
        bottom + 36.0
    );
}

/// A number with as many places as the distance of lines needs.
fn label(value: f64, step: f64) -> String {
    if step < 1e-3 {
        return format!("{value:.1e}");
    }
    let places = (-step.log10().floor()).clamp(0.0, 3.0) as usize;
    // Never -0.
    format!(
        "{:.places$}",
        if value.abs() < step / 2.0 { 0.0 } else { value }
    )
}

fn line(svg: &mut String, curve: &Curve, index: usize, range: &Range) {
    let mut points = String::new();
    for point in &curve.points {
        let [x, y] = range.place(*point);
        let _ = write!(points, "{x:.1},{y:.1} ");
    }
    let colour = COLOURS[index % COLOURS.len()];
    let dashes = if index >= COLOURS.len() {
        " stroke-dasharray=\"5 3\""
    } else {
        ""
    };
    let style = format!("stroke=\"{colour}\" stroke-width=\"2\"{dashes}");
    let (left, top) = (AREA[2] + 12.0, AREA[1] + 8.0 + 20.0 * index as f64);
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" {style}/>",
        points.trim_end()
    );
    if let [only] = curve.points.as_slice() {
        let [x, y] = range.place(*only);
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{left} {top}h22\" {style}/><text x=\"{}\" y=\"{}\">{}</text>",
        left + 28.0,
        top + 4.0,
        escaped(&curve.name)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: values 0 and 1 have lines each 0.2 and an axis up to 1.2, so 1 lies at
    // 270 - 234 · 1/1.2 = 75; epochs 0 and 4 lie at the edges.
    #[test]
    fn points_stand_where_their_values_are() {
        let curve = Curve {
            name: "a<b".to_string(),
            points: vec![[0.0, 0.0], [2.0, f64::NAN], [4.0, 1.0]],
        };
        let svg = draw("loss & more", &[curve]);
        assert!(svg.contains("points=\"64.0,270.0 470.0,75.0\""), "{svg}");
        assert!(
            svg.contains("a&lt;b") && svg.contains("loss &amp; more"),
            "{svg}"
        );
        assert_eq!(draw("x", &[]), "");
    }

    #[test]
    fn distances_of_lines_are_round() {
        for (least, expected) in [
            (0.2, 0.2),
            (0.21, 0.5),
            (7.0, 10.0),
            (0.0, 1.0),
            (30.0, 50.0),
        ] {
            assert!((nice(least) - expected).abs() < 1e-9, "{least}");
        }
    }

    #[test]
    fn long_lines_are_thinned_and_keep_their_ends() {
        let points: Vec<[f64; 2]> = (0..10).map(|x| [f64::from(x), 0.0]).collect();
        let kept: Vec<f64> = thinned(&points, 4).iter().map(|point| point[0]).collect();
        assert_eq!(kept, [0.0, 4.0, 8.0, 9.0]);
    }
}
