//! Rules as they are held against a region of which parts are known from before.
//!
//! *Does*: keeps, beside the rules themselves, what finds their strings alone, and their conditions.
//! *Never*: judges by parts what can only be judged as a whole: then the region is scanned as it is.

use super::cache::ScanCache;
use super::conditions::{Asked, Conditions, Facts, Uncertain};
use super::content::Content;
use super::engine::Externals;
use super::finder::{Finder, Place};
use super::heads::Heads;
use super::windows::{self, Fragments};
use boreal_parser::file::YaraFile;
use std::time::Duration;

/// What it takes to judge regions by parts.
#[derive(Debug)]
pub(super) struct ByParts {
    finder: Finder,
    conditions: Conditions,
    /// Something is said of a file only where the engine has all of it in one piece.
    wants_whole_files: bool,
}

impl ByParts {
    /// For rule files with these texts; none if their strings cannot be found alone.
    pub(super) fn new(files: &[(&str, YaraFile)]) -> Option<ByParts> {
        let asked = Asked::by(files.iter().map(|(_, file)| file));
        let finder = Finder::new(files)?;
        let conditions = Conditions::new(files, &finder, asked.magics);
        Some(ByParts { finder, conditions, wants_whole_files: asked.of_whole_files })
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
        let parts_do = !(content.is_file() && self.wants_whole_files);
        let (finder, magics) = (&self.finder, self.conditions.magics());
        windows::Search { finder, magics, rules, cache, budget, parts_do }.fragments(content, &may_match)
    }
}
