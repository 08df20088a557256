//! `map --svg`: a picture of a disk, each state in its colour, per key, with totals.

use std::fmt::Write;

use super::show::share;
use super::size;
use crate::PAGE;
use crate::account::report::{MapRun, State};

/// Cells in a row, and rows at the most but for the footer; each cell stands for as many pages, a power of two.
const COLUMNS: u64 = 128;
const ROWS: u64 = 64;
/// Side of a cell.
const CELL: u64 = 7;
/// Left of the cells, where it says what lies at the beginning of every so many rows, and right of them.
const LEFT: u64 = 76;
const LABELLED: usize = 8;
const RIGHT: u64 = 10;
/// The last page of a blob is its VHD footer, no part of the disk.
const FOOTER: u64 = 1;
const LINE: u64 = 18;
/// Shades of the keys, the first seen first; further keys begin again.
const SHADES: [&str; 6] = ["#1b7837", "#5aae61", "#2c7fb8", "#41b6c4", "#225ea8", "#7fcdbb"];

/// What one colour stands for.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Class {
    state: State,
    key: Option<String>,
}

impl Class {
    fn of(run: &MapRun) -> Self {
        Self { state: run.state, key: run.key.clone() }
    }

    fn name(&self) -> String {
        match &self.key {
            Some(key) => format!("{}, key {key}", self.state.name()),
            None => self.state.name().to_owned(),
        }
    }
}

/// The picture of the disk `name`, whose runs are `runs`, in order and without a gap.
#[must_use]
pub(super) fn draw(name: &str, runs: &[MapRun]) -> String {
    let pages: u64 = runs.iter().map(|run| run.pages).sum();
    let per_cell = (pages - FOOTER).div_ceil(COLUMNS * ROWS).max(1).next_power_of_two();
    let rows = pages.div_ceil(per_cell).div_ceil(COLUMNS);
    // Totals by colour, in the order in which they are first seen.
    let mut classes: Vec<(Class, u64)> = Vec::new();
    let mut index_of = Vec::with_capacity(runs.len());
    for run in runs {
        let class = Class::of(run);
        let index = classes.iter().position(|(other, _)| *other == class).unwrap_or_else(|| {
            classes.push((class, 0));
            classes.len() - 1
        });
        classes[index].1 += run.pages;
        index_of.push(index);
    }
    let colours = colours(&classes);

    let (width, top) = (LEFT + COLUMNS * CELL + RIGHT, LINE * 3);
    let legend = top + rows * CELL + LINE * 3 / 2;
    let height = legend + LINE * classes.len() as u64;
    let mut svg = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| {
        let _ = writeln!(svg, "{line}"); // a String takes everything
    };
    put(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" role="img">"#
    ));
    put(format_args!("<title>{}</title>", escaped(&format!("How each page of {name} is stored"))));
    put(format_args!(r#"<rect width="{width}" height="{height}" fill="white"/>"#));
    put(format_args!(r#"<text x="{LEFT}" y="{LINE}" font-size="14" font-weight="bold">{}</text>"#, escaped(name)));
    let (cell, row) = (bytes(per_cell), bytes(per_cell * COLUMNS));
    let scale = format!("{}; a cell is {cell}, a row {row}", bytes(pages - FOOTER));
    put(format_args!(r##"<text x="{LEFT}" y="{}" fill="#555">{}</text>"##, LINE * 2, escaped(&scale)));
    for row in (0..rows).step_by(LABELLED) {
        let (x, y, at) = (LEFT - 6, top + row * CELL + CELL, bytes(row * COLUMNS * per_cell));
        put(format_args!(r##"<text x="{x}" y="{y}" font-size="10" text-anchor="end" fill="#555">{at}</text>"##));
    }
    let cells: Vec<_> = {
        let mut first = 0;
        let colour_of = |cell: u64| {
            let (start, end) = (cell * per_cell, ((cell + 1) * per_cell).min(pages));
            while runs[first].start + runs[first].pages <= start {
                first += 1;
            }
            colours[index_of[first + prevailing(&runs[first..], &index_of[first..], start, end)]]
        };
        (0..pages.div_ceil(per_cell)).map(colour_of).collect()
    };
    for (row, cells) in (0..).zip(cells.chunks(COLUMNS as usize)) {
        let mut column = 0;
        for alike in cells.chunk_by(|one, next| one == next) {
            let (x, y, width) = (LEFT + column * CELL, top + row * CELL, alike.len() as u64 * CELL);
            put(format_args!(r#"<rect x="{x}" y="{y}" width="{width}" height="{CELL}" fill="{}"/>"#, alike[0]));
            column += alike.len() as u64;
        }
    }
    for (number, ((class, total), colour)) in (0..).zip(classes.iter().zip(&colours)) {
        let y = legend + LINE * number;
        put(format_args!(
            r##"<rect x="{LEFT}" y="{}" width="12" height="12" fill="{colour}" stroke="#888"/>"##,
            y - 11
        ));
        let text = format!("{}: {}", class.name(), share(total * PAGE as u64, pages * PAGE as u64));
        put(format_args!(r#"<text x="{}" y="{y}">{}</text>"#, LEFT + 18, escaped(&text)));
    }
    put(format_args!("</svg>"));
    svg
}

fn bytes(pages: u64) -> String {
    size::human(pages * PAGE as u64)
}

/// Of the runs from the one on that `start` lies in, the index of the first whose colour has most of `start..end`.
/// Plaintext in a layer always shows, however little of the cell it is: it is what the picture is looked at for.
fn prevailing(runs: &[MapRun], index_of: &[usize], start: u64, end: u64) -> usize {
    let inside = || runs.iter().enumerate().take_while(|(_, run)| run.start < end);
    if let Some((plain, _)) = inside().find(|(_, run)| run.state == State::Plain) {
        return plain;
    }
    let mut shares: Vec<(usize, u64)> = Vec::new();
    for (number, run) in inside() {
        let share = (run.start + run.pages).min(end) - run.start.max(start);
        match shares.iter_mut().find(|(other, _)| index_of[*other] == index_of[number]) {
            Some((_, sum)) => *sum += share,
            None => shares.push((number, share)),
        }
    }
    // The first of equals, so that a picture is the same each time.
    shares.iter().rev().max_by_key(|(_, share)| share).map_or(0, |&(number, _)| number)
}

fn colours(classes: &[(Class, u64)]) -> Vec<&'static str> {
    let mut shades = SHADES.iter().cycle();
    let colour = |(class, _): &(Class, u64)| match class.state {
        State::Base => "#bdbdbd",
        State::Plain => "#d7301f",
        State::Zero => "#f5f5f5",
        State::Encrypted => shades.next().copied().unwrap_or(SHADES[0]),
    };
    classes.iter().map(colour).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, pages: u64, state: State, key: Option<&str>) -> MapRun {
        MapRun { start, pages, state, layer: None, key: key.map(str::to_owned), of: None }
    }

    /// Of all bars of cells.
    fn widths(svg: &str) -> Vec<u64> {
        let bars = svg.lines().filter(|line| line.contains(&format!(r#"height="{CELL}""#)));
        bars.map(|bar| bar.split('"').nth(5).and_then(|width| width.parse().ok()).expect(bar)).collect()
    }

    #[test]
    fn every_colour_is_in_the_legend_with_its_total() {
        let runs = [
            run(0, 1 << 20, State::Base, None),
            run(1 << 20, 2048, State::Encrypted, Some("d/1")),
            run((1 << 20) + 2048, 2048, State::Encrypted, Some("d/2")),
            run((1 << 20) + 4096, 1, State::Plain, None),
            run((1 << 20) + 4097, 4095, State::Zero, None),
        ];
        let svg = draw("a & b", &runs);
        for text in [
            "a &amp; b",
            "base: 512 MiB (99.2 %)",
            "encrypted, key d/1: 1 MiB",
            "key d/2: 1 MiB",
            "plain: 512 B",
            "zero",
        ] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        let cells: u64 = widths(&svg).iter().sum::<u64>() / CELL;
        assert!(cells <= COLUMNS * ROWS + 1 && cells > COLUMNS * ROWS / 2, "{cells}");
        // One page of plaintext in a cell of 256 shows.
        assert_eq!(svg.matches("#d7301f").count(), 2);
    }

    #[test]
    fn a_disk_of_one_page_has_one_cell() {
        let svg = draw("d", &[run(0, 1, State::Zero, None)]);
        assert_eq!(widths(&svg), [CELL]);
    }
}
