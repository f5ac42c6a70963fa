//! Plain text tables that fit a terminal of 80 columns.
//!
//! Invariant: no line is wider than asked for; what does not fit is cut in the one column that may be, and
//! the cut shows.

/// Width that every table keeps to.
pub(super) const WIDTH: usize = 80;
const GAP: &str = "  ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

pub(super) struct Table {
    heads: Vec<(&'static str, Align)>,
    /// The column that is cut where the table is too wide.
    flexible: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heads: &[(&'static str, Align)], flexible: usize) -> Table {
        assert!(flexible < heads.len(), "the flexible column is one of the table's");
        Table { heads: heads.to_vec(), flexible, rows: vec![] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.heads.len(), "a row has a cell per column");
        self.rows.push(cells);
    }

    /// The lines, the first with the heads; none wider than `width`, as far as cutting one column can do.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let mut widths: Vec<usize> = self.heads.iter().map(|(head, _)| head.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let total = widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1);
        let flexible = &mut widths[self.flexible];
        *flexible = flexible.saturating_sub(total.saturating_sub(width)).max(1);
        let heads: Vec<String> = self.heads.iter().map(|(head, _)| (*head).to_owned()).collect();
        std::iter::once(&heads).chain(&self.rows).map(|row| self.show(row, &widths)).collect()
    }

    fn show(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (at, ((cell, width), (_, align))) in row.iter().zip(widths).zip(&self.heads).enumerate()
        {
            let cell = cut(cell, *width);
            if at > 0 {
                line.push_str(GAP);
            }
            match align {
                Align::Left => line.push_str(&format!("{cell:<width$}")),
                Align::Right => line.push_str(&format!("{cell:>width$}")),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Table {
        let mut table = Table::new(&[("NAME", Align::Left), ("COUNT", Align::Right)], 0);
        table.row(vec![name.to_owned(), "7".to_owned()]);
        table.row(vec!["b".to_owned(), "123456".to_owned()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let expected = ["NAME     COUNT", "orders       7", "b       123456"];
        assert_eq!(table("orders").lines(WIDTH), expected);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_the_cut_shows() {
        let lines = table(&"x".repeat(200)).lines(20);
        assert_eq!(lines[1], format!("{}…       7", "x".repeat(11)));
        assert!(lines.iter().all(|line| line.chars().count() <= 20), "{lines:?}");
    }
}
