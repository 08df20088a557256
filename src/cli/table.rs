//! Columns for people.

use std::fmt;

use crate::text;

/// Rows of text under a heading; numbers are set to the right.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    right: &'static [bool],
}

impl Table {
    /// `right[i]`: column i is set to the right.
    #[must_use]
    pub(super) fn new(heading: &[&str], right: &'static [bool]) -> Self {
        assert_eq!(heading.len(), right.len(), "one setting for each column");
        Self { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()], right }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.right.len(), "a cell for each column");
        self.rows.push(cells.into_iter().map(|cell| text::line(&cell).into_owned()).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(self.right) {
                let padded = if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
                line += &padded;
                line += "  ";
            }
            let end = if number + 1 == self.rows.len() { "" } else { "\n" };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let mut table = Table::new(&["NAME", "SIZE", "BASE"], &[false, true, false]);
        table.row(vec!["größer".into(), "10 GiB".into(), "-".into()]);
        table.row(vec!["b".into(), "1 B".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME      SIZE  BASE\ngrößer  10 GiB  -\nb          1 B");
    }
}
