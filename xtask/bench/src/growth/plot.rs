//! Results as a drawing in SVG: a column for each kind, above it time and below it memory, all axes logarithmic.
//!
//! The text depends on the results only. Colours follow the reader's choice of light or dark, and lines differ in their
//! marks too. A dashed line is what linear growth from the first point of its line would be.

use std::fmt::Write as _;

use super::axis::Axis;
use super::data::{Kind, Measurement, Results};
use super::table::count;

/// Pixels of a panel without its labels.
const PANEL: (f64, f64) = (240.0, 180.0);
/// Pixels left of the first panel, and between two.
const LEFT: f64 = 64.0;
const GAP: f64 = 76.0;
/// Pixels above a row: its legend, or none.
const ROWS: [f64; 2] = [92.0, 330.0];
const SIZE: (f64, f64) = (970.0, 566.0);
/// Length of a mark of an axis, radius of a mark of a line.
const TICK: f64 = 4.0;
const MARK: f64 = 3.5;
/// The memory that no build shall need more of, in MiB.
const GOAL: f64 = 48.0;

const STYLE: &str = "\
text{font:12px sans-serif;fill:#24292f}.t{font-weight:bold;font-size:13px}.b{fill:#fff}.f{fill:none;stroke:#8c959f}\
.g{stroke:#8c959f;stroke-opacity:.3}.goal{stroke:#8c959f;stroke-dasharray:1 3}.c{fill:none;stroke-width:2}\
.l{stroke-dasharray:6 4;stroke-opacity:.6}\
.s0{stroke:#0969da}.s1{stroke:#bc4c00}.s2{stroke:#1a7f37}.m0{fill:#0969da}.m1{fill:#bc4c00}.m2{fill:#1a7f37}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.b{fill:#0d1117}\
.s0{stroke:#58a6ff}.s1{stroke:#f0883e}.s2{stroke:#3fb950}.m0{fill:#58a6ff}.m1{fill:#f0883e}.m2{fill:#3fb950}}";

/// A quantity of a measurement in the unit of its axis.
type Quantity = fn(&Measurement) -> f64;

/// Returns the drawing.
pub(crate) fn svg(results: &Results) -> String {
    let (width, height) = SIZE;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>Time and memory of kiln by the size of its input</title>\n<style>{STYLE}</style>\n\
         <rect class=\"b\" width=\"{width}\" height=\"{height}\"/>\n"
    );
    let rows: [(&str, Quantity); 2] =
        [("time (s)", |m| m.wall_s), ("memory (MiB)", |m| m.memory_bytes as f64 / f64::from(1 << 20))];
    for (column, kind) in Kind::ALL.into_iter().enumerate() {
        let series = results.series(kind);
        if series.is_empty() {
            continue;
        }
        let left = LEFT + column as f64 * (PANEL.0 + GAP);
        text(&mut out, (left, 22.0), "t", "start", &title(kind));
        for (index, (build, _)) in series.iter().enumerate() {
            let y = 42.0 + 16.0 * index as f64;
            line(&mut out, &format!("c s{index}"), (left, y - 4.0), (left + 24.0, y - 4.0));
            mark(&mut out, index, (left + 12.0, y - 4.0));
            text(&mut out, (left + 30.0, y), "k", "start", build);
        }
        for ((name, quantity), top) in rows.iter().zip(ROWS) {
            panel(&mut out, (left, top), (kind, name), &series, *quantity);
        }
    }
    out.push_str("</svg>\n");
    out
}

fn title(kind: Kind) -> String {
    match kind {
        Kind::Files => "COPY of many files",
        Kind::Layer => "COPY of one large file",
        Kind::Steps => "many instructions",
    }
    .to_owned()
}

/// Draws the axes of a panel and one line for each build.
fn panel(
    out: &mut String,
    (left, top): (f64, f64),
    (kind, name): (Kind, &str),
    series: &[(&str, Vec<&Measurement>)],
    quantity: Quantity,
) {
    let (right, bottom) = (left + PANEL.0, top + PANEL.1);
    let memory = name.starts_with("memory");
    let points = || series.iter().flat_map(|(_, points)| points);
    let x = Axis::new(points().map(|m| m.size), left, right);
    let goal = memory.then_some(GOAL);
    let y = Axis::new(points().map(|m| quantity(m)).chain(goal), bottom, top);
    for tick in x.ticks() {
        let at = x.at(tick);
        line(out, "g", (at, top), (at, bottom));
        line(out, "f", (at, bottom), (at, bottom + TICK));
        text(out, (at, bottom + 17.0), "k", "middle", &count(tick));
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        line(out, "g", (left, at), (right, at));
        line(out, "f", (left - TICK, at), (left, at));
        text(out, (left - 7.0, at + 4.0), "k", "end", &count(tick));
    }
    let _ = writeln!(
        out,
        "<rect class=\"f\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
        PANEL.0, PANEL.1
    );
    text(out, (left + PANEL.0 / 2.0, bottom + 34.0), "k", "middle", kind.unit());
    text(out, (left - 44.0, top - 8.0), "k", "start", name);
    if let Some(goal) = goal {
        line(out, "goal", (left, y.at(goal)), (right, y.at(goal)));
    }
    for (index, (_, points)) in series.iter().enumerate() {
        let places: Vec<(f64, f64)> = points.iter().map(|m| (x.at(m.size), y.at(quantity(m)))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        // What memory would be if it were linear is the same for all builds, nearly.
        if let (Some(first), true) = (points.first(), index == 0 || !memory) {
            let (size, cost) = (first.size, quantity(first));
            let end = (size * y.high() / cost).min(points.last().map_or(size, |m| m.size));
            if end > size {
                let to = (x.at(end), y.at(cost * end / size));
                line(out, &format!("l s{index}"), (x.at(size), y.at(cost)), to);
            }
        }
        let _ = writeln!(out, "<polyline class=\"c s{index}\" points=\"{}\"/>", path.join(" "));
        places.into_iter().for_each(|place| mark(out, index, place));
    }
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

/// Draws the mark of a line: a disc, a square, a triangle.
fn mark(out: &mut String, series: usize, (x, y): (f64, f64)) {
    let r = MARK;
    let _ = match series {
        0 => writeln!(out, "<circle class=\"m0\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\"/>"),
        1 => {
            let (left, top, side) = (x - r, y - r, 2.0 * r);
            writeln!(
                out,
                "<rect class=\"m1\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{side:.1}\" height=\"{side:.1}\"/>"
            )
        }
        _ => {
            let (left, right, top, bottom) = (x - r, x + r, y - r, y + r);
            writeln!(
                out,
                "<polygon class=\"m{series}\" points=\"{x:.1},{top:.1} {left:.1},{bottom:.1} {right:.1},{bottom:.1}\"/>"
            )
        }
    };
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::{measurement, results};
    use super::*;

    fn example() -> Results {
        results(vec![
            measurement(Kind::Files, "first <build>", 1000.0, 0.1),
            measurement(Kind::Files, "first <build>", 500_000.0, 50.0),
            measurement(Kind::Files, "nothing changed", 1000.0, 0.01),
            measurement(Kind::Files, "nothing changed", 500_000.0, 0.9),
            measurement(Kind::Layer, "first build", 0.1, 1.5),
            measurement(Kind::Steps, "RUN true", 10.0, 0.4),
            measurement(Kind::Steps, "RUN true", 400.0, 90.0),
        ])
    }

    /// Returns the elements of a document, each as its name and attributes; panics where it is not well formed.
    fn elements(text: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
        let (mut found, mut open) = (Vec::new(), Vec::new());
        for piece in text.split('<').skip(1) {
            let (tag, content) = piece.split_once('>').expect("a tag that ends");
            assert!(!content.replace("&lt;", "").replace("&amp;", "").contains('&'), "{content}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
            let mut attributes = Vec::new();
            while !rest.is_empty() {
                let (key, after) = rest.split_once("=\"").expect("an attribute with a value");
                let (value, after) = after.split_once('"').expect("a value that ends");
                attributes.push((key.trim(), value));
                rest = after;
            }
            if !empty {
                open.push(name);
            }
            found.push((name, attributes));
        }
        assert!(open.is_empty(), "{open:?}");
        found
    }

    #[test]
    fn a_drawing_is_well_formed_and_has_every_point_inside() {
        let text = svg(&example());
        let elements = elements(&text);
        assert_eq!(elements[0].0, "svg");
        let lines = |class: &str| {
            let mine = |a: &&Vec<(&str, &str)>| a.contains(&("class", class));
            elements.iter().filter(|(name, _)| *name == "polyline").map(|(_, a)| a).filter(mine).count()
        };
        // Two rows of three kinds, and a second build of one of them.
        assert_eq!((lines("c s0"), lines("c s1")), (6, 2));
        for (name, attributes) in &elements {
            for (key, value) in attributes {
                let (most, values) = match *key {
                    "x" | "x1" | "x2" | "cx" => (SIZE.0, vec![*value]),
                    "y" | "y1" | "y2" | "cy" => (SIZE.1, vec![*value]),
                    "points" => (SIZE.0, value.split([' ', ',']).collect()),
                    _ => continue,
                };
                for value in values {
                    let number: f64 = value.parse().unwrap();
                    assert!((0.0..=most).contains(&number), "{name} {key}={value}");
                }
            }
        }
    }

    #[test]
    fn lines_of_what_was_measured_stay_in_their_panel() {
        let text = svg(&example());
        let right = LEFT + 3.0 * PANEL.0 + 2.0 * GAP;
        for (name, attributes) in elements(&text).iter().filter(|(name, _)| *name == "polyline") {
            let points = attributes.iter().find(|(key, _)| *key == "points").unwrap().1;
            let points: Vec<(f64, f64)> = points
                .split(' ')
                .map(|p| p.split_once(',').unwrap())
                .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
                .collect();
            assert!(points.is_sorted_by(|a, b| a.0 < b.0), "{name}: {points:?}");
            let rows = ROWS.map(|top| top..=top + PANEL.1);
            assert!(rows.iter().any(|row| points.iter().all(|(_, y)| row.contains(y))), "{points:?}");
            assert!(points.iter().all(|(x, _)| (LEFT..=right).contains(x)), "{points:?}");
        }
    }

    #[test]
    fn names_cannot_break_a_drawing_and_equal_results_give_equal_text() {
        let text = svg(&example());
        assert!(text.contains("first &lt;build>") && !text.contains("first <build>"));
        assert_eq!(text, svg(&example()));
    }
}
