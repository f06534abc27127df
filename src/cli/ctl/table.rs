//! Objects of JSON as a table for people.

use serde_json::Value;

/// A column: its heading, and the names that lead to what stands in it.
pub(super) type Column = (&'static str, &'static [&'static str]);

/// The table, a line for each of `items`, numbers to the right.
pub(super) fn text(columns: &[Column], items: &[Value]) -> String {
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()];
    for item in items {
        rows.push(columns.iter().map(|(_, path)| cell(at(item, path))).collect());
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        })
        .map(Option::unwrap_or_default)
        .collect();
    let is_number: Vec<bool> = (columns.iter())
        .map(|(_, path)| {
            !items.is_empty()
                && items
                    .iter()
                    .all(|item| matches!(at(item, path), Value::Number(_)))
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, &width), &is_number) in row.iter().zip(&widths).zip(&is_number) {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            line += &if is_number {
                padding + cell
            } else {
                cell.clone() + &padding
            };
            line += "  ";
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// What `path` leads to within `item`; null where that is nothing.
pub(super) fn at<'v>(item: &'v Value, path: &[&str]) -> &'v Value {
    let mut found = item;
    for name in path {
        found = found.get(name).unwrap_or(&Value::Null);
    }
    found
}

/// A value as it stands in a table: what clients chose cannot move the cursor.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.chars().flat_map(visible).collect(),
        other => other.to_string(),
    }
}

fn visible(character: char) -> impl Iterator<Item = char> {
    let is_hidden =
        character.is_control() || matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}');
    let escaped = is_hidden.then(|| character.escape_unicode());
    let itself = (!is_hidden).then_some(character);
    escaped.into_iter().flatten().chain(itself)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let items = [
            json!({"name": "lamp", "of": {"count": 7}}),
            json!({"name": "é\u{1b}[2J", "of": {"count": 12}}),
        ];
        let columns: [Column; 3] = [
            ("NAME", &["name"]),
            ("COUNT", &["of", "count"]),
            ("NONE", &["x", "y"]),
        ];
        assert_eq!(
            text(&columns, &items),
            "NAME        COUNT  NONE\nlamp            7  -\né\\u{1b}[2J     12  -\n"
        );
    }
}
