//! A lineage as a tree of text, 100 columns wide at most.
//!
//! Pure. A shard stands under the one it came from; that of a merge under the one with the lower
//! keys, and the other points to it.

use std::collections::HashSet;

use tristream_proto::domain::{HashKeyRange, ShardId};

use super::lineage::{Lineage, Node};
use crate::cli::screen::Colours;
use crate::cli::table::{Align, Table};

/// No line is wider.
pub(super) const COLUMNS: usize = 100;
/// Of the branches to the left of a shard; deeper ones are cut off at their beginning.
const BRANCHES_MAX: usize = 12;
/// Of a hash key's 32 digits.
const HEX_DIGITS_MAX: usize = 6;
/// Cells of the bar that shows a shard's part of the key space.
const BAR_CELLS: u32 = 12;

/// A line of the tree.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    branches: String,
    shard: ShardId,
    /// The shard stands elsewhere, and this one points to it.
    is_pointer: bool,
}

/// The lines of the picture.
pub(super) fn draw(lineage: &Lineage, colours: Colours) -> Vec<String> {
    let heads = [
        ("SHARD", Align::Left),
        ("KEYS", Align::Left),
        ("", Align::Left),
        ("RECORDS", Align::Right),
        ("FIRST", Align::Left),
        ("LAST", Align::Left),
        ("LEADER", Align::Left),
    ];
    let mut table = Table::new(&heads, 0);
    let lines = lines(lineage);
    for line in &lines {
        if let Some(node) = lineage.get(line.shard) {
            table.row(cells(line, node));
        }
    }
    let mut drawn = table.lines(COLUMNS).into_iter();
    let mut out = vec![summary(lineage), String::new()];
    out.extend(drawn.next().map(|head| colours.bold(&head)));
    for (text, line) in drawn.zip(&lines) {
        let open = lineage.get(line.shard).is_some_and(Node::is_open);
        out.push(match open && !line.is_pointer {
            true => colours.good(&text),
            false => colours.dim(&text),
        });
    }
    out
}

fn summary(lineage: &Lineage) -> String {
    let [open, closed, expired] = lineage.counts();
    let mut text = format!("{}: {}, {open} open", lineage.stream, super::word(lineage.status));
    for (count, word) in [(closed, "closed"), (expired, "expired")] {
        if count > 0 {
            text += &format!(", {count} {word}");
        }
    }
    let records = grouped(lineage.records());
    text + &format!("; {records} records; map version {}", lineage.version)
}

fn cells(line: &Line, node: &Node) -> Vec<String> {
    let name = format!("{}{}", line.branches, label(line, node));
    let unknown = || "?".to_owned();
    let Some(shard) = node.shard.as_ref().filter(|_| !line.is_pointer) else {
        let mut cells = vec![String::new(); 7];
        cells[0] = name;
        if !line.is_pointer {
            cells[1] = "expired".to_owned();
        }
        return cells;
    };
    vec![
        name,
        bar(shard.range, shard.is_open()),
        hex(shard.range),
        node.records.map_or_else(unknown, grouped),
        node.first().as_deref().map(short).unwrap_or_default(),
        match (node.last.as_deref(), node.records) {
            (Some(last), _) => short(last),
            (None, Some(_)) => "-".to_owned(),
            (None, None) => unknown(),
        },
        node.leader.clone().unwrap_or_else(|| "none".to_owned()),
    ]
}

fn label(line: &Line, node: &Node) -> String {
    let index = node.id.index();
    if line.is_pointer {
        return format!("→ {index}");
    }
    let mark = match &node.shard {
        Some(shard) if shard.is_open() => '●',
        Some(_) => '○',
        None => '×',
    };
    match node.shard.as_ref().map(|shard| &shard.parents[..]) {
        Some([low, high]) => format!("{mark} {index} = {} + {}", low.index(), high.index()),
        _ => format!("{mark} {index}"),
    }
}

/// The shards in the order of the picture, with their branches.
fn lines(lineage: &Lineage) -> Vec<Line> {
    let mut lines = vec![];
    let mut seen = HashSet::new();
    // By hand, not by calling itself: a lineage may be as deep as its stream is old.
    let mut todo: Vec<(ShardId, String, Option<bool>)> =
        lineage.roots().iter().rev().map(|root| (root.id, String::new(), None)).collect();
    while let Some((shard, stem, is_last)) = todo.pop() {
        let joint = match is_last {
            None => "",
            Some(true) => "└─",
            Some(false) => "├─",
        };
        let branches = cut(&format!("{stem}{joint}"));
        let is_pointer = !seen.insert(shard);
        lines.push(Line { branches, shard, is_pointer });
        let Some(node) = lineage.get(shard).filter(|_| !is_pointer) else { continue };
        let stem = match is_last {
            None => stem,
            Some(true) => stem + "  ",
            Some(false) => stem + "│ ",
        };
        for (at, child) in node.children.iter().enumerate().rev() {
            todo.push((*child, stem.clone(), Some(at + 1 == node.children.len())));
        }
    }
    lines
}

fn cut(branches: &str) -> String {
    let count = branches.chars().count();
    if count <= BRANCHES_MAX {
        return branches.to_owned();
    }
    let tail: String = branches.chars().skip(count - BRANCHES_MAX + 2).collect();
    format!("… {tail}")
}

/// The part of the key space, drawn: at least a mark, however small it is.
fn bar(range: HashKeyRange, is_open: bool) -> String {
    let cells = u128::from(BAR_CELLS);
    let cell = u128::MAX / cells;
    let (full, empty) = (if is_open { '█' } else { '▒' }, '·');
    let middle = range.first.0 + (range.last.0 - range.first.0) / 2;
    (0..cells)
        .map(|at| {
            let half = at * cell + cell / 2;
            // A cell is filled when its middle is the shard's, or the shard's middle lies in it.
            let has = range.first.0 <= half && half <= range.last.0;
            if has || (middle / cell).min(cells - 1) == at { full } else { empty }
        })
        .collect()
}

/// The range's ends as so many leading hex digits as tell them apart, four at least; where that
/// would be too many, where it begins and about how many keys it has.
fn hex(range: HashKeyRange) -> String {
    let [first, last] = [range.first.0, range.last.0].map(|key| format!("{key:032x}"));
    let same = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let digits = (same + 1).max(4);
    if digits > HEX_DIGITS_MAX {
        let bits = (range.last.0 - range.first.0).checked_ilog2().map_or(0, |bits| bits + 1);
        return format!("{}+2^{bits}", &first[..HEX_DIGITS_MAX]);
    }
    format!("{}-{}", &first[..digits], &last[..digits])
}

/// A sequence number's two ends.
fn short(number: &str) -> String {
    match (number.get(..4), number.len().checked_sub(6).and_then(|at| number.get(at..))) {
        (Some(head), Some(tail)) if number.len() > 12 => format!("{head}…{tail}"),
        _ => number.to_owned(),
    }
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::stream::lineage::sample;
    use tristream_proto::domain::HashKey;

    fn text(lineage: &Lineage) -> String {
        draw(lineage, Colours::off()).join("\n")
    }

    #[test]
    fn a_split_and_a_merge() {
        let text = text(&sample::lineage());
        let (summary, table) = text.split_once("\n\n").expect("a summary and a table");
        assert_eq!(
            summary,
            "orders: ACTIVE, 3 open, 3 closed, 1 expired; 308,640 records; map version 5"
        );
        assert_eq!(
            table,
            "\
SHARD            KEYS                     RECORDS  FIRST        LAST         LEADER
× 0              expired
├─● 2            ███·········  0000-3fff  123,456  4968…672418  4968…486370  az-b
└─○ 3            ···▒▒▒······  4000-7fff        0  4968…652850  -            az-c
  └─● 6 = 3 + 4  ···██████···  4000-bfff        0  4968…843426  -            az-b
○ 1              ······▒▒▒▒▒▒  8000-ffff   61,728  4968…888466  4968…702418  az-a
├─○ 4            ······▒▒▒···  8000-bfff        ?  4968…847362  ?            none
│ └─→ 6
└─● 5            ·········███  c000-ffff  123,456  4968…827794  4968…641746  az-a"
        );
    }

    /// Shard 0 was split, then its first child, and so on; the last children are open.
    fn deep(levels: u32) -> Lineage {
        let mut shards = vec![sample::shard(0, [0, u128::MAX], (1, Some(1)), &[])];
        let mut high = u128::MAX;
        for level in 0..levels {
            let (parent, middle) = (level * 2, high / 2);
            let parent = if level == 0 { 0 } else { parent - 1 };
            let second = u64::from(level) + 2;
            let closed = (level + 1 < levels).then_some(second);
            shards.push(sample::shard(level * 2 + 1, [0, middle], (second, closed), &[parent]));
            shards.push(sample::shard(
                level * 2 + 2,
                [middle + 1, high],
                (second, None),
                &[parent],
            ));
            high = middle;
        }
        let stream = sample::described(shards);
        Lineage::new(&stream, &sample::cluster(&stream))
    }

    #[test]
    fn a_deep_lineage_stays_within_its_columns() {
        for levels in [1, 5, 40, 100] {
            let drawn = draw(&deep(levels), Colours::off());
            assert_eq!(drawn.len(), 3 + 1 + 2 * levels as usize, "every shard once");
            for line in &drawn {
                assert!(line.chars().count() <= COLUMNS, "{line}");
            }
        }
        let drawn = text(&deep(40));
        assert!(drawn.contains("…") && drawn.contains("● 79"), "{drawn}");
    }

    #[test]
    fn colours_are_off_where_nobody_sees_them() {
        assert!(!text(&sample::lineage()).contains('\u{1b}'));
        assert!(draw(&sample::lineage(), Colours::on()).join("\n").contains("\u{1b}["));
    }

    #[test]
    fn the_smallest_shard_has_a_mark_of_its_own() {
        let range = |first, last| HashKeyRange { first: HashKey(first), last: HashKey(last) };
        assert_eq!(bar(range(0, u128::MAX), true), "█".repeat(12));
        assert_eq!(bar(range(0, u128::MAX / 2), false), "▒▒▒▒▒▒······");
        assert_eq!(bar(range(5, 5), true), format!("█{}", "·".repeat(11)));
        assert_eq!(bar(range(u128::MAX, u128::MAX), true), format!("{}█", "·".repeat(11)));
    }

    #[test]
    fn ranges_and_numbers_are_as_short_as_they_can_be() {
        let range = |first, last| HashKeyRange { first: HashKey(first), last: HashKey(last) };
        assert_eq!(hex(range(0, u128::MAX)), "0000-ffff");
        assert_eq!(hex(range(0x00ab_cdef << 104, 0x00ab_cdff << 104)), "abcde-abcdf");
        assert_eq!(hex(range(1 << 100, (1 << 101) - 1)), "000000+2^100");
        assert_eq!(hex(range(7, 7)), "000000+2^0");
        assert_eq!(
            short("49674026002850188218576229259473476449429298564223254594"),
            "4967…254594"
        );
        assert_eq!(short("5"), "5");
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
