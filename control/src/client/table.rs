//! Tables for people: aligned, with units, without frames that get in the way of copying.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

/// A column: its heading, and whether its cells are numbers.
pub type Column = (&'static str, bool);

/// A table with numbers to the right and text to the left.
pub fn render(columns: &[Column], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    let align = |cell: Cell, is_number: bool| match is_number {
        true => cell.set_alignment(CellAlignment::Right),
        false => cell,
    };
    table.set_header(
        columns
            .iter()
            .map(|(heading, is_number)| align(Cell::new(heading), *is_number)),
    );
    for row in rows {
        let cells = row.into_iter().zip(columns);
        table.add_row(cells.map(|(text, (_, is_number))| align(Cell::new(text), *is_number)));
    }
    let lines: Vec<String> = table
        .to_string()
        .lines()
        .map(|line| {
            line.trim_end()
                .strip_prefix(' ')
                .unwrap_or(line.trim_end())
                .to_owned()
        })
        .collect();
    lines.join("\n")
}
