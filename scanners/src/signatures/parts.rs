//! Rules as they are held against a region of which parts are known from before.
//!
//! *Does*: keeps, beside the rules themselves, what finds their strings alone, and the rules for files, whose size the engine does not
//! know where it is given fragments and is told by a name of our own.
//! *Never*: judges by parts what can only be judged as a whole: then the region is scanned as it is.

use super::cache::ScanCache;
use super::conditions::{self, Asked, Conditions, FILE_SIZE, Facts, Uncertain};
use super::content::Content;
use super::engine::Externals;
use super::finder::{Finder, Place};
use super::heads::Heads;
use super::rules::compiler;
use super::windows::{self, Fragments};
use boreal::Scanner;
use boreal_parser::file::YaraFile;
use std::time::Duration;

/// What it takes to judge regions by parts.
#[derive(Debug)]
pub(super) struct ByParts {
    finder: Finder,
    conditions: Conditions,
    asked: Asked,
    /// The rules with another name for `filesize`, where they ask for it and that can be done.
    for_files: Option<Scanner>,
}

impl ByParts {
    /// For rules with these namespaces and texts; none if their strings cannot be found alone.
    pub(super) fn new<'s>(texts: impl Iterator<Item = (&'s str, &'s str)> + Clone) -> Option<ByParts> {
        let read = |(_, text)| boreal_parser::parse(text).map(|file| (text, file));
        let files: Vec<(&str, YaraFile)> = texts.clone().map(read).collect::<Result<_, _>>().ok()?;
        let asked = Asked::by(files.iter().map(|(_, file)| file));
        let finder = Finder::new(files.iter().map(|(text, file)| (*text, file)))?;
        let conditions = Conditions::new(&files, &finder, asked.magics.clone());
        let for_files = if asked.of_sizes { with_sizes_told(texts) } else { None };
        Some(ByParts { finder, conditions, asked, for_files })
    }

    /// What finds the strings of the rules.
    pub(super) fn finder(&self) -> &Finder {
        &self.finder
    }

    /// Whether a rule may hold in a region with these matches and markers, which begins so; of a file its size and its names count.
    pub(super) fn may_match(
        &self,
        places: &[Place],
        heads: Option<&Heads>,
        file: Option<(u64, &Externals)>,
    ) -> bool {
        self.conditions.may_match(&Facts { places, uncertain: &self.finder, heads, file })
    }

    /// Fragments of a region on which the rules' verdict is that of the whole.
    pub(super) fn fragments(
        &self,
        content: &Content,
        externals: &Externals,
        rules: &[u8; blake3::OUT_LEN],
        cache: &ScanCache,
        budget: Duration,
    ) -> Fragments {
        let heads = content.heads();
        let file = content.is_file().then(|| (content.all().len() as u64, externals));
        let may_match = |places: &[Place], uncertain: &dyn Uncertain| {
            self.conditions.may_match(&Facts { places, uncertain, heads: heads.as_ref(), file })
        };
        let lacks_size = self.asked.of_sizes && self.for_files.is_none();
        let all = content.is_file() && (self.asked.of_whole_files || lacks_size);
        let search =
            windows::Search { finder: &self.finder, magics: self.conditions.magics(), rules, cache, budget };
        match search.fragments(content, &may_match) {
            Fragments::These(_) if all => Fragments::All,
            other => other,
        }
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
