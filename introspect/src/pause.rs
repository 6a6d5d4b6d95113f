//! Stopping a guest's virtual CPUs for a moment.
//!
//! *Does*: names what a target must be able to do to be paused; dumps and sockets that others hold cannot.
//! *Trusts*: the target's word that the guest stopped; a look in the pause is validated all the same.
//! *Never*: leaves a guest paused: the guard resumes it when it goes, on a panic too.

/// A target that can be paused. Separate from [`crate::GuestMemory`], because a dump cannot pause and a live guest can.
pub trait Pause {
    /// Stops the guest until the guard goes. A guest that was paused already, by its admin, must stay so afterwards.
    fn pause(&self) -> Result<Paused<'_>, PauseError>;
}

/// A guest that stands still. Resumes it when dropped.
pub struct Paused<'a> {
    resume: Option<Box<dyn FnOnce() -> Result<(), PauseError> + 'a>>,
}

/// Why a guest could not be paused, or not be resumed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PauseError {
    /// The control channel is not to be had: none was set up, or another client holds it.
    #[error("no control channel: {0}")]
    Unavailable(String),
    /// The hypervisor refused.
    #[error("the hypervisor refused: {0}")]
    Refused(String),
    /// The hypervisor gave no answer in time.
    #[error("the hypervisor did not answer in time")]
    Timeout,
}

impl<'a> Paused<'a> {
    /// The guest has stopped; `resume` lets it go on.
    pub fn new(resume: impl FnOnce() -> Result<(), PauseError> + 'a) -> Self {
        Paused { resume: Some(Box::new(resume)) }
    }

    /// Lets the guest go on, and says whether that worked.
    pub fn resume(mut self) -> Result<(), PauseError> {
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
