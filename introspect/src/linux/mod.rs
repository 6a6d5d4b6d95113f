//! Linux guests: the attached kernel, and views of what it runs.

mod guest;
mod view;
mod walk;

pub use guest::{Kernel, Layouts, LinuxGuest};
pub use view::View;
