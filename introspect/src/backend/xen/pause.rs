//! Pausing a domain so that it always goes on.
//!
//! Xen counts pauses: ours ends with our unpause and leaves an admin's own as it was. A [`Watchdog`] makes the unpause if this
//! process cannot.
#![allow(unsafe_code)]

use super::privcmd::{Buffer, hypercall};
use super::{LEASE, Xen, abi, control};
use crate::backend::watchdog::Watchdog;
use crate::target::Control;
use crate::{ControlError, Pause, Paused};

impl Pause for Xen {
    fn pause(&self) -> Result<Paused<'_>, ControlError> {
        let Some((xen, abi)) = self.control.clone() else {
            return Err(ControlError::Unavailable("this domain may not ask Xen for it".to_owned()));
        };
        let (id, fd) = (self.domain.id, xen.fd());
        let unpause = control::domctl(abi, abi::UNPAUSEDOMAIN, id);
        let undo = move |_, _| {
            // Async-signal-safe: mmap, a copy, an ioctl. There is nobody to tell that it failed.
            if let Ok(buffer) = Buffer::new() {
                buffer.write(0, &unpause);
                let _ = hypercall(fd, abi::DOMCTL, buffer.address(), 0);
            }
        };
        // SAFETY: see `undo`.
        let watchdog = unsafe { Watchdog::start(fd, LEASE, undo) }
            .map_err(|error| ControlError::Unavailable(format!("no process to guard the pause: {error}")))?;
        if let Err(error) = control::pause(&*xen, abi, id, true) {
            // Not paused: an unpause of the watchdog's would be one too many.
            watchdog.call_off();
            return Err(ControlError::Refused(error.to_string()));
        }
        Ok(Paused::new(move || {
            // First this: whoever is killed in between leaves a guest that runs.
            let done = control::pause(&*xen, abi, id, false);
            if !watchdog.call_off() {
                let why = "the pause lasted longer than allowed, and the guest was resumed before its end";
                return Err(ControlError::Refused(why.to_owned()));
            }
            done.map_err(|error| ControlError::Refused(error.to_string()))
        }))
    }
}

impl Control for Xen {
    /// Xen counts: twice stopped is to be let go on twice.
    fn stop(&self) -> Result<(), ControlError> {
        self.set_paused(true)
    }

    fn go_on(&self) -> Result<(), ControlError> {
        self.set_paused(false)
    }
}

impl Xen {
    fn set_paused(&self, is_paused: bool) -> Result<(), ControlError> {
        let Some((xen, abi)) = &self.control else {
            return Err(ControlError::Unavailable("this domain may not ask Xen for it".to_owned()));
        };
        control::pause(&**xen, *abi, self.domain.id, is_paused)
            .map_err(|error| ControlError::Refused(error.to_string()))
    }
}
