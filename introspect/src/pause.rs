//! Stopping a guest's virtual CPUs for a moment.
//!
//! *Does*: names what a target must be able to do to be paused; dumps and sockets that others hold cannot.
//! *Trusts*: the target's word that the guest stopped; a look in the pause is validated all the same.
//! *Never*: leaves a guest paused: the guard resumes it when it goes, on a panic too.

use crate::ControlError;

/// A target that can be paused. Separate from [`crate::GuestMemory`], because a dump cannot pause and a live guest can.
pub trait Pause {
    /// Stops the guest until the guard goes. A guest that was paused already, by its admin, must stay so afterwards.
    fn pause(&self) -> Result<Paused<'_>, ControlError>;
}

/// A guest that stands still. Resumes it when dropped.
pub struct Paused<'a> {
    resume: Option<Box<dyn FnOnce() -> Result<(), ControlError> + 'a>>,
}

impl<'a> Paused<'a> {
    /// The guest has stopped; `resume` lets it go on.
    pub fn new(resume: impl FnOnce() -> Result<(), ControlError> + 'a) -> Self {
        Paused { resume: Some(Box::new(resume)) }
    }

    /// Lets the guest go on, and says whether that worked.
    pub fn resume(mut self) -> Result<(), ControlError> {
        self.resume.take().map_or(Ok(()), |resume| resume())
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Some(resume) = self.resume.take() {
            // Nobody is left to tell; `Paused::resume` is for those who want to know.
            let _ = resume();
        }
    }
}
