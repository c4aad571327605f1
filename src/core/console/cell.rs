//! One value of a table, and how it is written: padded in lines for RESP2, typed in maps for RESP3. Decides nothing.

use crate::resp::encode;
use std::cmp::Ordering;
use std::fmt::Write as _;

/// Characters of one text; a name may be longer than any screen.
const TEXT_MAX: usize = 256;
/// Characters of some sentences.
const SENTENCES_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    Int(u64),
    Text(String),
    /// It does not apply, or is not known.
    Nothing,
}

impl From<u64> for Cell {
    fn from(number: u64) -> Cell {
        Cell::Int(number)
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Cell {
        Cell::Int(number as u64)
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Cell {
        Cell::Int(number.into())
    }
}

impl From<bool> for Cell {
    fn from(is: bool) -> Cell {
        Cell::from(if is { "yes" } else { "no" })
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::of_bytes(text.as_bytes())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::of_bytes(text.as_bytes())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or(Cell::Nothing, T::into)
    }
}

impl Cell {
    /// What stands in a table is one word: a child has chosen some of it, and must not forge a column or a line.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Cell {
        if bytes.is_empty() {
            return Cell::Nothing;
        }
        let mut text = String::with_capacity(bytes.len().min(TEXT_MAX));
        for byte in bytes.iter().take(TEXT_MAX) {
            match byte {
                b'\\' => text.push_str("\\\\"),
                b'!'..=b'~' => text.push(*byte as char),
                _ => _ = write!(text, "\\x{byte:02x}"),
            }
        }
        if bytes.len() > TEXT_MAX {
            text.push_str("...");
        }
        Cell::Text(text)
    }

    /// Sentences: in the last column, where spaces forge nothing.
    pub(crate) fn words(text: &str) -> Cell {
        if text.is_empty() {
            return Cell::Nothing;
        }
        let mut shown = String::new();
        for ch in text.chars().take(SENTENCES_MAX) {
            if ch.is_control() { shown.extend(ch.escape_default()) } else { shown.push(ch) }
        }
        Cell::Text(shown)
    }

    pub(crate) fn as_text(&self) -> String {
        let mut text = Vec::new();
        self.write(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Cell::Int(number) => encode::decimal(out, *number),
            Cell::Text(text) => out.extend_from_slice(text.as_bytes()),
            Cell::Nothing => out.push(b'-'),
        }
    }

    /// Padded to `width` characters: a number to the right, others to the left.
    fn write_padded(&self, out: &mut Vec<u8>, width: usize) {
        let start = out.len();
        self.write(out);
        let chars = match self {
            Cell::Text(text) => text.chars().count(),
            Cell::Int(_) | Cell::Nothing => out.len() - start,
        };
        let end = out.len();
        out.resize(end + width.saturating_sub(chars), b' ');
        if matches!(self, Cell::Int(_)) {
            out[start..].rotate_right(width.saturating_sub(chars));
        }
    }

    /// For RESP3.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Cell::Int(number) => encode::int(out, i64::try_from(*number).unwrap_or(i64::MAX)),
            Cell::Text(text) => encode::bulk(out, text.as_bytes()),
            Cell::Nothing => encode::null(out, 3),
        }
    }
}

/// Numbers by size, then texts, then what is not known.
impl Ord for Cell {
    fn cmp(&self, other: &Cell) -> Ordering {
        match (self, other) {
            (Cell::Int(a), Cell::Int(b)) => a.cmp(b),
            (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
            (Cell::Nothing, Cell::Nothing) => Ordering::Equal,
            (Cell::Int(_), _) | (Cell::Text(_), Cell::Nothing) => Ordering::Less,
            _ => Ordering::Greater,
        }
    }
}

impl PartialOrd for Cell {
    fn partial_cmp(&self, other: &Cell) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A column of a table. Names stay; columns are only ever added, at the end.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// How many characters most values have: wider ones move the rest of their line.
    pub(crate) width: usize,
    /// What it means, one line.
    pub(crate) doc: &'static str,
}

impl Column {
    /// Characters that each of its values takes up at least.
    fn room(&self) -> usize {
        self.width.max(self.name.len())
    }
}

/// One line, padded: numbers to the right, texts to the left.
pub(crate) fn line(columns: &[Column], cells: &[Cell]) -> Vec<u8> {
    let mut line = Vec::with_capacity(columns.iter().map(|column| column.room() + 1).sum());
    for (column, cell) in columns.iter().zip(cells) {
        cell.write_padded(&mut line, column.room());
        line.push(b' ');
    }
    line.truncate(line.trim_ascii_end().len());
    line
}

/// The header of such lines: a name stands to the left.
pub(crate) fn header(columns: &[Column]) -> Vec<u8> {
    let names: Vec<Cell> = columns.iter().map(|column| Cell::Text(column.name.to_owned())).collect();
    line(columns, &names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_one_word_whatever_a_child_has_chosen() {
        assert_eq!(Cell::of_bytes(b"a b\n\\\xff").as_text(), "a\\x20b\\x0a\\\\\\xff");
        assert_eq!(Cell::of_bytes(b""), Cell::Nothing);
        assert_eq!(Cell::of_bytes(&[b'x'; 300]).as_text().len(), TEXT_MAX + 3);
    }

    #[test]
    fn numbers_stand_right_and_words_left() {
        let column = |name, width| Column { name, width, doc: "" };
        let columns = [column("id", 4), column("name", 6), column("n", 1)];
        assert_eq!(header(&columns), b"id   name   n");
        assert_eq!(line(&columns, &[Cell::Int(7), "a".into(), Cell::Nothing]), b"   7 a      -");
    }

    #[test]
    fn numbers_come_before_words_and_nothing_comes_last() {
        let mut cells = vec![Cell::Nothing, Cell::from("b"), Cell::Int(10), Cell::from("a"), Cell::Int(9)];
        cells.sort();
        assert_eq!(cells, [Cell::Int(9), Cell::Int(10), "a".into(), "b".into(), Cell::Nothing]);
    }
}
