//! The main figures as a picture: for each workload the CPU time that a call costs on every stack.

use std::path::Path;

use benches::Outcome;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figures::{Medians, Row};

const WIDTH: i32 = 1000;
const MARGIN: i32 = 24;
/// The title of the picture and what the colours mean.
const HEAD: i32 = 76;
const TITLE: i32 = 30;
/// A stack has two bars, one for each side.
const STACK: i32 = 26;
const BAR: i32 = 9;
const GAP: i32 = 22;
/// What the names and the figures beside the bars need.
const NAMES: i32 = 84;
const FIGURES: i32 = 168;
const COLUMNS: usize = 2;

const INK: RGBColor = RGBColor(31, 35, 40);
const FAINT: RGBColor = RGBColor(110, 119, 129);
/// Server and client of ours, and of the others.
const OURS: [RGBColor; 2] = [RGBColor(29, 78, 216), RGBColor(147, 180, 245)];
const OTHERS: [RGBColor; 2] = [RGBColor(87, 96, 106), RGBColor(190, 197, 204)];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The rows of one workload.
struct Panel<'a> {
    title: String,
    rows: Vec<(&'a Row, Medians)>,
}

impl Panel<'_> {
    fn height(&self) -> i32 {
        TITLE + i32::try_from(self.rows.len()).unwrap_or(0) * STACK + GAP
    }
}

fn panels(rows: &[Row]) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel<'_>> = Vec::new();
    for row in rows {
        let Some(medians) = row.medians else { continue };
        let title = title(row);
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.rows.push((row, medians)),
            None => panels.push(Panel {
                title,
                rows: vec![(row, medians)],
            }),
        }
    }
    panels
}

fn title(row: &Row) -> String {
    let plural = |count: u32, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let mut title = format!(
        "{}, {}, {} in flight",
        row.workload,
        plural(row.connections, "connection"),
        row.in_flight
    );
    if row.tls {
        title.push_str(", TLS");
    }
    if row.workers > 1 {
        title = format!("{title}, {} workers", row.workers);
    }
    if row.table != "own" {
        title = format!("{title}, client of {}", row.table);
    }
    title
}

/// Draws rows into a file.
pub(crate) fn draw(rows: &[Row], file: &Path) -> Outcome<()> {
    let panels = panels(rows);
    let lines: Vec<_> = panels.chunks(COLUMNS).collect();
    let tallest = |line: &[Panel<'_>]| line.iter().map(Panel::height).max().unwrap_or(0);
    let height = HEAD + lines.iter().map(|line| tallest(line)).sum::<i32>() + MARGIN;
    let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
    let root = SVGBackend::new(file, size).into_drawing_area();
    // Errors of the drawing library hold what is on the stack; only their text goes on.
    let drawn = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        root.fill(&WHITE)?;
        head(&root)?;
        let width = (WIDTH - MARGIN * 3) / 2;
        let mut y = HEAD;
        for line in &lines {
            for (panel, x) in line.iter().zip([MARGIN, MARGIN * 2 + width]) {
                draw_panel(&root, panel, (x, y), width)?;
            }
            y += tallest(line);
        }
        root.present()
    };
    drawn().map_err(|error| format!("drawing {}: {error}", file.display()).into())
}

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: u32, color: RGBColor) -> Drawn {
    write(area, text, at, size, color, HPos::Left, FontStyle::Normal)
}

fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: u32,
    color: RGBColor,
    side: HPos,
    style: FontStyle,
) -> Drawn {
    let font = FontDesc::new(FontFamily::SansSerif, f64::from(size), style);
    let style = TextStyle::from(font)
        .color(&color)
        .pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text, at, style))
}

fn bar(area: &Area<'_>, at: (i32, i32), size: (i32, i32), color: RGBColor) -> Drawn {
    let end = (at.0 + size.0.max(1), at.1 + size.1);
    area.draw(&Rectangle::new([at, end], color.filled()))
}

fn head(area: &Area<'_>) -> Drawn {
    let title = "CPU time of a call or message, in microseconds; shorter is better";
    let at = (MARGIN, MARGIN);
    write(area, title, at, 18, INK, HPos::Left, FontStyle::Bold)?;
    let y = MARGIN + 26;
    for (colors, x) in [(OURS, MARGIN), (OTHERS, MARGIN + 22)] {
        bar(area, (x, y - BAR / 2), (18, BAR), colors[0])?;
    }
    text(area, "server", (MARGIN + 46, y), 13, INK)?;
    for (colors, x) in [(OURS, MARGIN + 110), (OTHERS, MARGIN + 132)] {
        bar(area, (x, y - BAR / 2), (18, BAR), colors[1])?;
    }
    let note = "client; beside the bars: server, client, and calls or messages a second";
    text(area, note, (MARGIN + 156, y), 13, INK)
}

fn draw_panel(area: &Area<'_>, panel: &Panel<'_>, at: (i32, i32), width: i32) -> Drawn {
    let (x, y) = at;
    let at = (x, y + TITLE / 2);
    write(area, &panel.title, at, 14, INK, HPos::Left, FontStyle::Bold)?;
    let costs = |medians: &Medians| [medians.server_cpu_us, medians.client_cpu_us];
    let all = panel.rows.iter().flat_map(|(_, medians)| costs(medians));
    let longest = all.fold(f64::MIN_POSITIVE, f64::max);
    let room = width - NAMES - FIGURES;
    for (index, (row, medians)) in (0..).zip(&panel.rows) {
        let top = y + TITLE + index * STACK;
        let middle = top + BAR;
        let is_ours = row.stack == "ours";
        let style = if is_ours {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        };
        let name_at = (x + NAMES - 8, middle);
        write(area, &row.stack, name_at, 13, INK, HPos::Right, style)?;
        let colors = if is_ours { OURS } else { OTHERS };
        let mut end = 0;
        for (side, (cost, color)) in (0..).zip(costs(medians).into_iter().zip(colors)) {
            #[allow(clippy::cast_possible_truncation)] // a part of `room`
            let length = (cost / longest * f64::from(room)) as i32;
            let at = (x + NAMES, top + side * BAR);
            bar(area, at, (length, BAR), color)?;
            end = end.max(length);
        }
        let mut figures = format!(
            "{} + {} us, {}/s",
            short(medians.server_cpu_us),
            short(medians.client_cpu_us),
            thousands(medians.per_s)
        );
        // The server of this one has no client.
        if let (Some(client), "own") = (&row.client, row.table.as_str()) {
            figures = format!("{figures} ({client}'s client)");
        }
        text(area, &figures, (x + NAMES + end + 6, middle), 12, FAINT)?;
    }
    Ok(())
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value {
        _ if value >= 99.95 => format!("{value:.0}"),
        _ if value >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    match value {
        _ if value >= 999_500.0 => format!("{} M", short(value / 1e6)),
        _ if value >= 999.5 => format!("{} k", short(value / 1e3)),
        _ => short(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::CASES;

    fn row(stack: &str, server_cpu_us: f64) -> Row {
        Row {
            medians: Some(Medians {
                per_s: 1e5,
                p50_us: None,
                p99_us: None,
                server_cpu_us,
                client_cpu_us: 1.0,
            }),
            ..Row::new(stack, CASES[1])
        }
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(short(0.1234), "0.12");
        assert_eq!(short(12.34), "12.3");
        assert_eq!(short(999.96), "1000");
        assert_eq!(thousands(12_345.0), "12.3 k");
        assert_eq!(thousands(2_345_678.0), "2.35 M");
    }

    #[test]
    fn what_has_no_figures_is_left_out() {
        let rows = [
            row("ours", 1.0),
            Row::new("volo", CASES[1]),
            row("tonic", 2.0),
        ];
        let panels = panels(&rows);
        assert_eq!(panels.len(), 1);
        assert_eq!(panels[0].title, "unary-100, 1 connection, 64 in flight");
        let stacks: Vec<_> = panels[0].rows.iter().map(|(row, _)| &row.stack).collect();
        assert_eq!(stacks, ["ours", "tonic"]);
    }

    #[test]
    fn a_picture_names_the_stacks() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("chart.svg");
        draw(&[row("ours", 1.0), row("tonic", 2.0)], &file).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains("tonic") && text.contains("2.00 + 1.00 us, 100 k/s"));
    }
}
