//! Dumps: every format reads back what was stored or written, and no file, however wrong, does more than be
//! refused.

mod fixture;
mod read;
mod write;
