//! The merged profile and what identifies it.

use crate::{Field, Symbols, Types};

/// A GNU build id (`.note.gnu.build-id`): 20 bytes of SHA-1 on every distribution kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BuildId(pub [u8; 20]);

/// What tells one kernel build from another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// The build id, where the kernel carries one.
    pub build_id: Option<BuildId>,
    /// `linux_banner` without its final newline.
    pub banner: String,
    /// `uname -r`.
    pub release: String,
}

/// One kernel build: its identity, symbols and types.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Which build.
    pub identity: Identity,
    /// Symbols at their link-time addresses.
    pub symbols: Symbols,
    /// Structures, unions and enumerators.
    pub types: Types,
}

/// What a walker needed and the profile does not have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProfileError {
    /// No such symbol.
    #[error("the kernel has no symbol `{0}`")]
    NoSymbol(String),
    /// No such structure or union.
    #[error("the kernel has no type `{0}`")]
    NoType(String),
    /// The type has no such member.
    #[error("`struct {ty}` has no member `{path}`")]
    NoField {
        /// The structure searched.
        ty: String,
        /// The dotted member path asked for.
        path: String,
    },
}

impl Identity {
    /// From a banner (`Linux version RELEASE …`, without its line end); `None` where it is none.
    pub fn from_banner(banner: &str, build_id: Option<BuildId>) -> Option<Identity> {
        let release = banner.strip_prefix("Linux version ")?.split(' ').next()?.to_owned();
        Some(Identity { build_id, banner: banner.to_owned(), release })
    }
}

impl Profile {
    /// Link-time address of `name` (first definition when static functions share a name).
    pub fn symbol(&self, name: &str) -> Result<u64, ProfileError> {
        self.symbols.address(name).ok_or_else(|| ProfileError::NoSymbol(name.to_owned()))
    }

    /// Where the dotted `path` sits in `struct ty` (or `union ty`), seen through anonymous members:
    /// `field("task_struct", "thread_info.flags")`, `field("file", "f_path.dentry")`.
    pub fn field(&self, ty: &str, path: &str) -> Result<Field, ProfileError> {
        self.types.field(ty, path)
    }

    /// Size of `struct ty` in bytes.
    pub fn size_of(&self, ty: &str) -> Result<u32, ProfileError> {
        self.types.size_of(ty).ok_or_else(|| ProfileError::NoType(ty.to_owned()))
    }
}
