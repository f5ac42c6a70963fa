//! A lineage as a picture: who covered which hash keys when.
//!
//! Pure. From left to right time, one column for each moment at which shards came to be; from top
//! to bottom the key space. A shard is a field from its creation to its end, so that a split looks
//! like one, and a merge too. Must not know files.

use std::fmt::Write;

use tristream_proto::domain::{HashKeyRange, Shard, ShardId, Timestamp};

use super::lineage::{Lineage, Node};
use super::tree::grouped;
use crate::cli::when;

/// Left of the fields: the key space's scale.
const LEFT: f64 = 96.0;
const TOP: f64 = 92.0;
const RIGHT: f64 = 36.0;
const BOTTOM: f64 = 74.0;
/// The fields' height, made so that the narrowest can be labelled, where that is possible.
const HEIGHT: [f64; 2] = [420.0, 1400.0];
const LABEL_HEIGHT: f64 = 18.0;
/// A column's width, by how long it lasted.
const COLUMN: [f64; 2] = [96.0, 230.0];
/// The fields' width altogether.
const WIDTH: [f64; 2] = [640.0, 2600.0];
/// Between two fields.
const GAP: f64 = 3.0;
/// Of the arrow at the end of an open shard.
const ARROW: f64 = 12.0;
/// The expired at the left.
const PAST: f64 = 96.0;

/// Colours.
const INK: &str = "#1d2733";
const FAINT: &str = "#66727f";
const LINE: &str = "#d9dfe5";

/// The picture as SVG; `now` is where the open shards end.
pub(super) fn draw(lineage: &Lineage, now: Timestamp) -> String {
    let frame = Frame::new(lineage, now);
    let mut svg = frame.head(lineage, now);
    frame.scale(&mut svg);
    frame.past(&mut svg, lineage);
    for (node, shard) in lineage.shards() {
        frame.field(&mut svg, node, shard);
    }
    frame.times(&mut svg);
    frame.legend(&mut svg);
    svg += "</svg>\n";
    svg
}

/// Where everything goes.
#[derive(Debug)]
struct Frame {
    /// Seconds at which a column begins, with its x; the last is where it all ends.
    columns: Vec<(u64, f64)>,
    /// Where the fields begin: left of the first column where something has expired.
    left: f64,
    height: f64,
}

/// A rectangle.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Frame {
    fn new(lineage: &Lineage, now: Timestamp) -> Frame {
        let mut seconds: Vec<u64> =
            lineage.shards().map(|(_, shard)| shard.creation_second).collect();
        seconds.sort_unstable();
        seconds.dedup();
        // Children may lead the clock by a second.
        let end = seconds.last().map_or(0, |last| last + 1).max(now.seconds());
        let has_past = lineage.nodes().any(|node| node.shard.is_none());
        let first = if has_past { LEFT + PAST } else { LEFT };
        let ends = seconds.iter().skip(1).copied().chain([end]);
        let widths: Vec<f64> =
            seconds.iter().zip(ends).map(|(from, to)| column_width(to - from)).collect();
        let total: f64 = widths.iter().sum();
        let factor = total.clamp(WIDTH[0], WIDTH[1]) / total.max(1.0);
        let mut columns = vec![];
        let mut x = first;
        for (second, width) in seconds.into_iter().zip(widths) {
            columns.push((second, x));
            x += width * factor;
        }
        columns.push((end, x));
        // Fields that would be too narrow for a label at any height do not count.
        let parts = lineage.shards().map(|(_, shard)| part(shard.range));
        let narrowest = parts.filter(|part| part * HEIGHT[1] >= LABEL_HEIGHT).fold(1.0, f64::min);
        let height = (LABEL_HEIGHT / narrowest).clamp(HEIGHT[0], HEIGHT[1]);
        Frame { columns, left: LEFT, height }
    }

    fn right(&self) -> f64 {
        self.columns.last().map_or(LEFT, |(_, x)| *x)
    }

    /// Where a moment is: at the column that begins then, or, for what is gone, at the next.
    fn x(&self, second: u64) -> f64 {
        let at = self.columns.partition_point(|(begin, _)| *begin < second);
        self.columns.get(at).map_or(self.right(), |(_, x)| *x)
    }

    fn y(&self, key: u128) -> f64 {
        TOP + fraction(key) * self.height
    }

    fn area(&self, shard: &Shard) -> Area {
        let x = self.x(shard.creation_second);
        let end = shard.closed_second.map_or(self.right(), |closed| self.x(closed + 1));
        let y = self.y(shard.range.first.0);
        let height = part(shard.range) * self.height;
        Area { x, y, width: end - x, height }
    }

    fn head(&self, lineage: &Lineage, now: Timestamp) -> String {
        let (width, height) = (self.right() + RIGHT, TOP + self.height + BOTTOM);
        let [open, closed, expired] = lineage.counts();
        let mut counts = format!("{open} open");
        for (count, word) in [(closed, "closed"), (expired, "expired")] {
            if count > 0 {
                let _ = write!(counts, ", {count} {word}");
            }
        }
        let time = when::show(now);
        let records = grouped(lineage.records());
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" \
             font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n\
             <title>Shards of the stream {name}</title>\n\
             <defs><pattern id=\"gone\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" \
             patternTransform=\"rotate(45)\"><rect width=\"7\" height=\"7\" fill=\"#f6f8fa\"/>\
             <line x1=\"0\" y1=\"0\" x2=\"0\" y2=\"7\" stroke=\"#dde3e9\" stroke-width=\"3\"/>\
             </pattern></defs>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"36\" font-size=\"20\" font-weight=\"600\" fill=\"{INK}\">\
             {name}: which shard covered which hash keys</text>\n\
             <text x=\"{LEFT}\" y=\"60\" font-size=\"13\" fill=\"{FAINT}\">\
             {status} · {counts} · {records} records · map version {version} · {time}</text>\n",
            name = lineage.stream,
            status = super::word(lineage.status),
            version = lineage.version,
        )
    }

    /// The key space in quarters, at the left.
    fn scale(&self, svg: &mut String) {
        for quarter in 0..=4_u32 {
            let y = TOP + f64::from(quarter) / 4.0 * self.height;
            let percent = quarter * 25;
            let key = match quarter {
                4 => "ffff…".to_owned(),
                at => format!("{:x}000…", at * 4),
            };
            let (line_end, text_x) = (LEFT - 6.0, LEFT - 12.0);
            let _ = writeln!(
                svg,
                "<line x1=\"{x1}\" y1=\"{y:.1}\" x2=\"{line_end}\" y2=\"{y:.1}\" stroke=\"{LINE}\"/>\n\
                 <text x=\"{text_x}\" y=\"{y1:.1}\" font-size=\"12\" text-anchor=\"end\" \
                 fill=\"{INK}\">{percent}%</text>\n\
                 <text x=\"{text_x}\" y=\"{y2:.1}\" font-size=\"10\" text-anchor=\"end\" \
                 fill=\"{FAINT}\">{key}</text>",
                x1 = LEFT - 14.0,
                y1 = y - 1.0,
                y2 = y + 11.0,
            );
        }
        let middle = TOP + self.height / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"20\" y=\"{middle:.1}\" font-size=\"12\" fill=\"{FAINT}\" \
             text-anchor=\"middle\" transform=\"rotate(-90 20 {middle:.1})\">hash keys</text>"
        );
    }

    /// What lay before the shards whose parents are gone.
    fn past(&self, svg: &mut String, lineage: &Lineage) {
        for (parents, area) in self.gone(lineage) {
            rectangle(svg, area, "url(#gone)", LINE);
            let names: Vec<String> = parents.iter().map(|id| id.index().to_string()).collect();
            let lines = [(names.join(" + "), FAINT), ("expired".to_owned(), FAINT)];
            label(svg, area, &lines);
        }
    }

    /// What has expired, with the part that is known of where it was.
    fn gone(&self, lineage: &Lineage) -> Vec<(Vec<ShardId>, Area)> {
        let mut gone: Vec<(Vec<ShardId>, Area)> = vec![];
        for (_, shard) in lineage.shards() {
            let is_gone = |id: &&ShardId| lineage.get(**id).is_none_or(|node| node.shard.is_none());
            let parents: Vec<ShardId> = shard.parents.iter().filter(is_gone).copied().collect();
            if parents.is_empty() {
                continue;
            }
            let after = self.area(shard);
            let area = Area { x: self.left, width: after.x - self.left, ..after };
            match gone.iter_mut().find(|(known, _)| *known == parents) {
                // The two children of a split: their ranges meet.
                Some((_, known)) => {
                    let bottom = (known.y + known.height).max(area.y + area.height);
                    known.y = known.y.min(area.y);
                    known.height = bottom - known.y;
                }
                None => gone.push((parents, area)),
            }
        }
        gone
    }

    fn field(&self, svg: &mut String, node: &Node, shard: &Shard) {
        let area = self.area(shard);
        let hue = 360.0 * (fraction(shard.range.first.0) + part(shard.range) / 2.0);
        // Yellow fields look brighter than blue ones of the same lightness.
        let (fill, edge) = match shard.is_open() {
            true => (colour(hue, 0.58, 0.76), colour(hue, 0.45, 0.45)),
            false => (colour(hue, 0.38, 0.91), colour(hue, 0.30, 0.72)),
        };
        match shard.is_open() {
            true => arrow(svg, area, &fill, &edge),
            false => rectangle(svg, area, &fill, &edge),
        }
        let ink = if shard.is_open() { INK } else { FAINT };
        let records = match node.records {
            Some(1) => "1 record".to_owned(),
            Some(count) => format!("{} records", grouped(count)),
            None => "no leader".to_owned(),
        };
        let mut lines = vec![(format!("shard {}", node.id.index()), ink), (records, ink)];
        if let Some(leader) = node.leader.as_ref().filter(|_| shard.is_open()) {
            lines.push((format!("led by {leader}"), ink));
        }
        label(svg, area, &lines);
    }

    /// When the columns begin, below the fields.
    fn times(&self, svg: &mut String) {
        let bottom = TOP + self.height;
        let mut free_from = 0.0;
        let mut date = String::new();
        for (at, (second, x)) in self.columns.iter().enumerate() {
            let is_now = at + 1 == self.columns.len();
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{y1:.1}\" x2=\"{x:.1}\" y2=\"{y2:.1}\" stroke=\"{LINE}\"/>",
                y1 = bottom + 2.0,
                y2 = bottom + 10.0,
            );
            // A label is about 64 wide; the last is always there.
            if *x < free_from || (!is_now && *x > self.right() - 70.0) {
                continue;
            }
            free_from = *x + 72.0;
            let text = when::show(Timestamp(second * 1000));
            let (day, time) = (&text[..10], &text[11..19]);
            let time = if is_now { "now" } else { time };
            let anchor = if is_now { "end" } else { "start" };
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"12\" text-anchor=\"{anchor}\" \
                 fill=\"{INK}\">{time}</text>",
                y = bottom + 24.0,
            );
            if date != day && !is_now {
                date = day.to_owned();
                let _ = writeln!(
                    svg,
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"10\" fill=\"{FAINT}\">{day} UTC\
                     </text>",
                    y = bottom + 37.0,
                );
            }
        }
    }

    fn legend(&self, svg: &mut String) {
        let y = TOP + self.height + 52.0;
        let area = |x: f64| Area { x, y, width: 26.0, height: 14.0 };
        arrow(svg, area(LEFT), &colour(210.0, 0.62, 0.72), &colour(210.0, 0.55, 0.42));
        rectangle(svg, area(LEFT + 90.0), &colour(210.0, 0.38, 0.91), &colour(210.0, 0.30, 0.72));
        rectangle(svg, area(LEFT + 190.0), "url(#gone)", LINE);
        for (x, text) in [
            (34.0, "open"),
            (124.0, "closed"),
            (224.0, "expired: its records are gone"),
            (440.0, "columns are not to scale"),
        ] {
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"12\" fill=\"{FAINT}\">{text}</text>",
                x = LEFT + x,
                y = y + 11.5,
            );
        }
    }
}

/// Longer where it lasted longer, but an hour is not sixty minutes wide.
fn column_width(seconds: u64) -> f64 {
    (COLUMN[0] + 14.0 * (seconds as f64).max(1.0).log2()).clamp(COLUMN[0], COLUMN[1])
}

/// How far down the key space a key is, from 0 to 1.
fn fraction(key: u128) -> f64 {
    key as f64 / u128::MAX as f64
}

/// How much of the key space a range is.
fn part(range: HashKeyRange) -> f64 {
    (range.last.0 - range.first.0) as f64 / u128::MAX as f64
}

impl Area {
    /// Apart from its neighbours, and never nothing.
    fn inside(self) -> Area {
        let gap = GAP.min(self.height / 4.0);
        Area {
            x: self.x + GAP / 2.0,
            y: self.y + gap / 2.0,
            width: (self.width - GAP).max(1.0),
            height: (self.height - gap).max(0.5),
        }
    }
}

fn rectangle(svg: &mut String, area: Area, fill: &str, edge: &str) {
    let Area { x, y, width, height } = area.inside();
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{rx:.1}\" \
         fill=\"{fill}\" stroke=\"{edge}\"/>",
        rx = 4.0_f64.min(height / 2.0),
    );
}

/// A field that goes on.
fn arrow(svg: &mut String, area: Area, fill: &str, edge: &str) {
    let Area { x, y, width, height } = area.inside();
    let (end, tip) = (x + width, x + width + ARROW.min(height / 2.0));
    let (middle, bottom) = (y + height / 2.0, y + height);
    let _ = writeln!(
        svg,
        "<path d=\"M{x:.1} {y:.1} L{end:.1} {y:.1} L{tip:.1} {middle:.1} L{end:.1} {bottom:.1} \
         L{x:.1} {bottom:.1} Z\" fill=\"{fill}\" stroke=\"{edge}\" stroke-linejoin=\"round\"/>"
    );
}

/// As many lines as fit, in the middle of the area.
fn label(svg: &mut String, area: Area, lines: &[(String, &str)]) {
    const STEP: f64 = 15.0;
    let wide = lines.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0) as f64;
    let first_fits =
        lines.first().is_some_and(|(text, _)| text.chars().count() as f64 * 7.5 < area.width);
    if !first_fits {
        return;
    }
    // The first line alone where the others do not fit beside each other.
    let fits = if wide * 6.5 > area.width { 1 } else { lines.len() };
    let count = fits.min((area.height / STEP) as usize);
    let Some(top) = count.checked_sub(1) else { return };
    let x = area.x + area.width / 2.0;
    let first = area.y + area.height / 2.0 - top as f64 * STEP / 2.0 + 4.2;
    for (at, (text, ink)) in lines.iter().take(count).enumerate() {
        let (y, size) = (first + at as f64 * STEP, if at == 0 { 13 } else { 11 });
        let weight = if at == 0 { "600" } else { "400" };
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" font-weight=\"{weight}\" \
             text-anchor=\"middle\" fill=\"{ink}\">{text}</text>"
        );
    }
}

/// From hue (degrees), saturation and lightness (0 to 1).
fn colour(hue: f64, saturation: f64, lightness: f64) -> String {
    let chroma = (1.0 - (2.0 * lightness - 1.0).abs()) * saturation;
    let channel = |offset: f64| {
        let k = (offset + hue / 30.0).rem_euclid(12.0);
        let part = lightness - chroma / 2.0 * (-1.0_f64).max((k - 3.0).min(9.0 - k).min(1.0));
        (part * 255.0).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", channel(0.0), channel(8.0), channel(4.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::stream::lineage::sample;

    const NOW: Timestamp = Timestamp(1_795_257_000_000);

    fn areas(lineage: &Lineage) -> Vec<(u32, Area)> {
        let frame = Frame::new(lineage, NOW);
        lineage.shards().map(|(node, shard)| (node.id.index(), frame.area(shard))).collect()
    }

    #[test]
    fn a_child_begins_where_its_parents_end() {
        let lineage = sample::lineage();
        let areas = areas(&lineage);
        let of = |id: u32| areas.iter().find(|(known, _)| *known == id).expect("drawn").1;
        for (node, shard) in lineage.shards() {
            for child in &node.children {
                let (parent, child) = (of(shard.id.index()), of(child.index()));
                assert!((parent.x + parent.width - child.x).abs() < 0.01, "{parent:?} {child:?}");
            }
        }
        let right = of(6).x + of(6).width;
        assert!((of(2).x + of(2).width - right).abs() < 0.01, "open shards end together");
        assert!((of(6).y - of(3).y).abs() < 0.01 && (of(6).height - 210.0).abs() < 0.01);
    }

    #[test]
    fn fields_do_not_overlap() {
        let areas = areas(&sample::lineage());
        for (at, (id, a)) in areas.iter().enumerate() {
            for (other, b) in &areas[at + 1..] {
                let x = (a.x + a.width).min(b.x + b.width) - a.x.max(b.x);
                let y = (a.y + a.height).min(b.y + b.height) - a.y.max(b.y);
                assert!(x < 0.01 || y < 0.01, "{id} {a:?} and {other} {b:?}");
            }
        }
    }

    #[test]
    fn the_picture_names_everything() {
        let svg = draw(&sample::lineage(), NOW);
        for text in [
            ">orders: which shard covered which hash keys<",
            ">ACTIVE · 3 open, 3 closed, 1 expired · 308,640 records · map version 5 · \
             2026-11-21T10:30:00.000Z<",
            ">expired<",
            ">shard 6<",
            ">123,456 records<",
            ">led by az-b<",
            ">10:00:00<",
            ">2026-11-21 UTC<",
            ">now<",
        ] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        let open = svg.matches("<rect").count() + svg.matches("<path").count();
        // Six shards, the expired one, three in the legend, two backgrounds.
        assert_eq!(open, 6 + 1 + 3 + 2);
    }

    #[test]
    fn many_generations_and_tiny_shards_stay_within_bounds() {
        let mut shards = vec![];
        for at in 0..100_u64 {
            let second = 1_795_255_200 + at * at;
            let next = 1_795_255_200 + (at + 1) * (at + 1);
            let closed = (at < 99).then_some(next - 1);
            let parents: Vec<u32> = at.checked_sub(1).map(|at| at as u32).into_iter().collect();
            shards.push(sample::shard(at as u32, [0, u128::MAX - 1], (second, closed), &parents));
        }
        shards.push(sample::shard(100, [u128::MAX, u128::MAX], (1_795_255_200, None), &[]));
        let stream = sample::described(shards);
        let lineage = Lineage::new(&stream, &sample::cluster(&stream));
        let frame = Frame::new(&lineage, NOW);
        assert!(frame.right() <= LEFT + WIDTH[1] + 0.01, "{}", frame.right());
        assert!((frame.height - HEIGHT[0]).abs() < 0.01, "no height makes room for the tiny one");
        let tiny = lineage.get(ShardId::from(100)).and_then(|node| node.shard.clone());
        let area = frame.area(&tiny.expect("there")).inside();
        assert!(area.height > 0.0 && area.width > 0.0, "{area:?}");
        assert!(!draw(&lineage, NOW).contains("NaN"));
    }

    #[test]
    fn colours_are_what_they_are_called() {
        assert_eq!(colour(0.0, 1.0, 0.5), "#ff0000");
        assert_eq!(colour(120.0, 1.0, 0.5), "#00ff00");
        assert_eq!(colour(240.0, 1.0, 0.5), "#0000ff");
        assert_eq!(colour(90.0, 0.0, 1.0), "#ffffff");
    }
}
