//! Where something stands in the policy files.
//!
//! *Does*: keeps the text of every file, and turns byte offsets into lines and columns. *Trusts*: nothing. *Never*: opens a file.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A file, a line and a column; both count from 1, columns count characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The file, as a path below the policy folder. Thousands of rules stand in one: they share its name, when they are read back too.
    #[serde(deserialize_with = "read_name")]
    pub file: Arc<str>,
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

/// The name of a file: that of the place read before, where it is the same.
fn read_name<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
    thread_local! {
        static LAST: RefCell<Arc<str>> = RefCell::new(Arc::default());
    }
    let name = Cow::<str>::deserialize(from)?;
    LAST.with_borrow_mut(|last| {
        if **last != *name {
            *last = name.into();
        }
        Ok(last.clone())
    })
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
    name: Arc<str>,
    text: String,
    /// Where each line begins, so that a place is found in no time in a file of any size.
    lines: Vec<usize>,
}

impl Sources {
    /// Adds a file's text.
    pub(crate) fn add(&mut self, name: String, text: String) -> FileId {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.files.push(Source { name: name.into(), text, lines });
        FileId(self.files.len() - 1)
    }

    /// The file's text.
    pub(crate) fn text(&self, file: FileId) -> &str {
        self.files.get(file.0).map_or("", |source| &source.text)
    }

    /// The names of all files, in the order in which they were read.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|source| &*source.name)
    }

    /// The line and column of the first byte of `span`.
    pub fn place(&self, file: FileId, span: &Range<usize>) -> Place {
        let text = self.text(file);
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let Some(source) = self.files.get(file.0) else {
            return Place { file: Arc::default(), line: 1, column: 1 };
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

    #[test]
    fn places_in_one_file_share_its_name_when_they_are_read_back() {
        let place = |file: &str, line| Place { file: file.into(), line, column: 1 };
        let written = [place("site.toml", 1), place("site.toml", 2), place("\u{e9}\"\n.toml", 3)];
        let text = serde_json::to_string(&written).expect("places");
        let read: Vec<Place> = serde_json::from_str(&text).expect("places");
        assert_eq!(read, written);
        assert!(Arc::ptr_eq(&read[0].file, &read[1].file) && !Arc::ptr_eq(&read[1].file, &read[2].file));
    }
}
