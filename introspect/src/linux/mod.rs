//! Linux guests: the attached kernel, and views of what it runs.

mod guest;
mod path;
mod record;
mod view;
mod walk;

pub use guest::{Kernel, Layouts, LinuxGuest, Resolved};
pub use path::{PathAt, PathLayout, Reach};
pub use view::View;
