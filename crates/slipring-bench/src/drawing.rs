//! Draws panels with a few lines each, as an SVG.

use std::fmt::Write;

/// One set of axes.
#[derive(Debug, Clone)]
pub struct Panel {
    /// The title.
    pub title: String,
    /// The unit of the vertical axis, which starts at zero.
    pub unit: &'static str,
    /// The labels of the horizontal axis.
    pub ticks: Vec<String>,
    /// The lines.
    pub series: Vec<Series>,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Series {
    /// The name, for the legend.
    pub name: &'static str,
    /// One value for each tick.
    pub values: Vec<f64>,
}

const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 300.0;
const COLOURS: [&str; 5] = ["#1f5fa8", "#c4561c", "#2b8a4b", "#8a2b7d", "#777777"];

/// Two panels in a row.
#[must_use]
pub fn svg(title: &str, panels: &[Panel]) -> String {
    let height = 40.0 + HEIGHT * panels.len().div_ceil(2) as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"20\" y=\"25\" font-size=\"14\">{}</text>\n",
        2.0 * WIDTH,
        escape(title)
    );
    for (number, panel) in panels.iter().enumerate() {
        let x = WIDTH * (number % 2) as f64;
        let y = 40.0 + HEIGHT * (number / 2) as f64;
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        draw(&mut out, panel);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel) {
    let (left, right, top, bottom) = (60.0, WIDTH - 32.0, 50.0, HEIGHT - 40.0);
    let values = || panel.series.iter().flat_map(|series| series.values.iter().copied());
    let highest = round_up(values().fold(0.0, f64::max));
    let last = panel.ticks.len().saturating_sub(1).max(1) as f64;
    let x = |index: usize| left + (right - left) * index as f64 / last;
    let y = |value: f64| bottom - (bottom - top) * value / highest;
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"16\" font-size=\"13\">{}</text>",
        escape(&panel.title)
    );
    for step in 0..=4 {
        let value = highest * f64::from(step) / 4.0;
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" x2=\"{right}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>",
            y(value),
            left - 6.0,
            y(value) + 4.0,
            // Quarters of tenths are not exact in binary.
            (value * 1e6).round() / 1e6
        );
    }
    let _ = writeln!(out, "<text x=\"6\" y=\"{}\">{}</text>", top - 12.0, panel.unit);
    for (index, tick) in panel.ticks.iter().enumerate() {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            x(index),
            bottom + 16.0
        );
    }
    for (number, (series, colour)) in panel.series.iter().zip(COLOURS).enumerate() {
        let points: Vec<String> = series
            .values
            .iter()
            .enumerate()
            .map(|(index, value)| format!("{:.1},{:.1}", x(index), y(*value)))
            .collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for (index, value) in series.values.iter().enumerate() {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{} {}: {value:.2} {}</title></circle>",
                x(index),
                y(*value),
                escape(series.name),
                panel.ticks.get(index).map_or("", String::as_str),
                panel.unit
            );
        }
        // There is room for two names above the lines; more are placed beside them.
        let number = number as f64;
        let (name_x, name_y) = match panel.series.len() {
            ..=2 => (left + 270.0 * number, 33.0),
            _ => (left + 10.0, top + 14.0 * number),
        };
        let _ = writeln!(
            out,
            "<text x=\"{name_x}\" y=\"{name_y}\" fill=\"{colour}\">{}</text>",
            escape(series.name)
        );
    }
}

/// Returns the next 1, 2, 4 or 8 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 8.0]
        .map(|step| step * power)
        .into_iter()
        .find(|top| *top >= value)
        .unwrap_or(10.0 * power)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number_above_all_values() {
        assert_eq!([0.0, 0.7, 1.0, 3.0, 9.0, 41.0].map(round_up), [1.0, 0.8, 1.0, 4.0, 10.0, 80.0]);
    }

    #[test]
    fn every_value_is_in_the_drawing() {
        let series = vec![Series { name: "a < b", values: vec![1.0, 2.5] }];
        let ticks = vec!["x".to_owned(), "y".to_owned()];
        let panel = Panel { title: "t".to_owned(), unit: "u", ticks, series };
        let drawing = svg("title", &[panel]);
        assert!(drawing.contains("a &lt; b y: 2.50 u"));
        assert_eq!(drawing.matches("<circle").count(), 2);
    }
}
