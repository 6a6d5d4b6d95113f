//! Where something stands in the policy files.
//!
//! *Does*: keeps the text of every file, and turns byte offsets into lines and columns. *Trusts*: nothing. *Never*: opens a file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// A file, a line and a column; both count from 1, columns count characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The file, as a path below the policy folder.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One of the folder's files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub(crate) usize);

/// The text of every file.
#[derive(Clone, Default, Debug)]
pub struct Sources {
    files: Vec<Source>,
}

#[derive(Clone, Debug)]
struct Source {
    name: String,
    text: String,
    /// Where each line begins, so that a place is found in no time in a file of any size.
    lines: Vec<usize>,
}

impl Sources {
    /// Adds a file's text.
    pub(crate) fn add(&mut self, name: String, text: String) -> FileId {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.files.push(Source { name, text, lines });
        FileId(self.files.len() - 1)
    }

    /// The file's text.
    pub(crate) fn text(&self, file: FileId) -> &str {
        self.files.get(file.0).map_or("", |source| &source.text)
    }

    /// The names of all files, in the order in which they were read.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|source| source.name.as_str())
    }

    /// The line and column of the first byte of `span`.
    pub fn place(&self, file: FileId, span: &Range<usize>) -> Place {
        let text = self.text(file);
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let Some(source) = self.files.get(file.0) else {
            return Place { file: String::new(), line: 1, column: 1 };
        };
        let line = source.lines.partition_point(|begin| *begin <= start);
        let begin = line.checked_sub(1).and_then(|line| source.lines.get(line)).copied().unwrap_or(0);
        Place {
            file: source.name.clone(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(text[begin..start].chars().count() + 1).unwrap_or(u32::MAX),
        }
    }
}

/// A value of a policy file, with the bytes it was read from.
#[derive(Clone, Debug)]
pub struct At<T>(toml::Spanned<T>);

impl<T> At<T> {
    /// The value.
    pub fn get(&self) -> &T {
        self.0.get_ref()
    }

    /// Its bytes in the file.
    pub fn span(&self) -> Range<usize> {
        self.0.span()
    }

    /// Another value at the same place.
    pub(crate) fn with<U>(&self, value: U) -> At<U> {
        At(toml::Spanned::new(self.0.span(), value))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<At<T>, D::Error> {
        toml::Spanned::deserialize(from).map(At)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let mut sources = Sources::default();
        let file = sources.add("a.toml".to_owned(), "é = 1\nxé = 2".to_owned());
        let place = |start| sources.place(file, &(start..start)).to_string();
        assert_eq!(place(0), "a.toml:1:1");
        assert_eq!(place(7), "a.toml:2:1");
        assert_eq!(place(10), "a.toml:2:3");
        assert_eq!(place(9999), "a.toml:2:7");
    }
}
