//! Attacks on tools like ours, made on the memory of real guests.
//!
//! Each test is named for its attack. Whatever the guest's memory holds, a look ends, does not panic, and gives the right
//! answer, a typed error, or a result that says what it could not read. A decoy never wins silently.

mod counts;
mod credentials;
mod hiding;
mod hostile;
mod integrity;
mod kept;
mod lists;
mod module_text;
mod page_tables;
mod planted;
mod pointers;
mod scanning;
mod signatures;
mod sockets;
mod strings;
mod symbols;
mod tearing;
mod text;
mod trees;
