//! Rules as they are held against a region of which parts are known from before.
//!
//! *Does*: keeps, beside the rules themselves, what finds their strings alone, and the rules for files, whose size the engine does not
//! know where it is given fragments and is told by a name of our own.
//! *Never*: judges by parts what can only be judged as a whole: then the region is scanned as it is.

use super::cache::ScanCache;
use super::conditions::{self, Asked, FILE_SIZE};
use super::content::Content;
use super::finder::Finder;
use super::rules::compiler;
use super::windows;
use boreal::Scanner;
use boreal_parser::file::YaraFile;
use std::ops::Range;
use std::time::Duration;

/// What it takes to judge regions by parts.
#[derive(Debug)]
pub(super) struct ByParts {
    finder: Finder,
    asked: Asked,
    /// The rules with another name for `filesize`, where they ask for it and that can be done.
    for_files: Option<Scanner>,
}

/// What can be said of a region by its matches alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfPages<'p> {
    pub(super) finder: &'p Finder,
    /// No rule holds where nothing matches.
    pub(super) is_quiet: bool,
    /// Which rules hold depends on nothing else.
    pub(super) by_matches: bool,
}

impl ByParts {
    /// For rules with these namespaces and texts; none if their strings cannot be found alone.
    pub(super) fn new<'s>(texts: impl Iterator<Item = (&'s str, &'s str)> + Clone) -> Option<ByParts> {
        let files: Vec<YaraFile> =
            texts.clone().map(|(_, text)| boreal_parser::parse(text)).collect::<Result<_, _>>().ok()?;
        let asked = Asked::by(files.iter());
        let finder = Finder::new(texts.clone().map(|(_, text)| text))?;
        let for_files = if asked.of_sizes { with_sizes_told(texts) } else { None };
        Some(ByParts { finder, asked, for_files })
    }

    /// Fragments of a region on which the rules' verdict is that of the whole; none if it must be scanned as it is.
    pub(super) fn fragments(
        &self,
        content: &Content,
        rules: &[u8; blake3::OUT_LEN],
        cache: &ScanCache,
        budget: Duration,
    ) -> Option<Vec<Range<u64>>> {
        let lacks_size = self.asked.of_sizes && self.for_files.is_none();
        if content.is_file() && (self.asked.of_whole_files || lacks_size) {
            return None;
        }
        windows::fragments(content, &self.finder, self.asked.of_programs, rules, cache, budget)
    }

    /// Whether no rule holds where these are all fragments: nothing matches, and each wants a match.
    pub(super) fn are_quiet(&self, fragments: &[Range<u64>]) -> bool {
        fragments.is_empty() && !self.asked.of_nothing
    }

    /// What finds the strings in some pages, where none reaches far and something can be said of a region by its matches alone.
    pub(super) fn of_pages(&self) -> Option<OfPages<'_>> {
        let (is_quiet, by_matches) = (!self.asked.of_nothing, !self.asked.of_bytes);
        let is_of_use = self.finder.is_near() && (is_quiet || by_matches);
        is_of_use.then_some(OfPages { finder: &self.finder, is_quiet, by_matches })
    }

    /// The rules that fragments of a region are judged by, where they are others than for the whole.
    pub(super) fn scanner(&self, content: &Content) -> Option<Scanner> {
        let mut scanner = self.for_files.clone().filter(|_| content.is_file())?;
        let size = i64::try_from(content.all().len()).unwrap_or(i64::MAX);
        scanner.define_symbol(FILE_SIZE, size).ok()?;
        Some(scanner)
    }
}

fn with_sizes_told<'s>(texts: impl Iterator<Item = (&'s str, &'s str)>) -> Option<Scanner> {
    let mut compiler = compiler();
    compiler.define_symbol(FILE_SIZE, 0i64);
    for (namespace, text) in texts {
        compiler.add_rules_str_in_namespace(conditions::with_sizes_told(text)?, namespace).ok()?;
    }
    Some(compiler.finalize())
}
