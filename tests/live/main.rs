//! Looks at guests that run: what is done to them is found, and what is found can be shown again. One program, so that tests of one
//! guest each are never alone on a machine of two processors.

mod blink;
mod cohort;
mod detect;
mod evidence;
mod hidden;
mod moving;
