//! Development only: builds and boots real guests with a known ground truth.

pub mod scenery;
pub mod truth;
