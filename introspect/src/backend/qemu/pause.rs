//! Pausing a guest so that it always goes on.
//!
//! *Does*: `stop` and `cont` over QMP. A [`Watchdog`] that shares the connection sends `cont` if this process cannot.
//! *Never*: resumes a guest that was paused before, by its admin or by QEMU itself.
#![allow(unsafe_code)]

use super::Qemu;
use super::qmp::{Qmp, QmpError};
use crate::backend::watchdog::{Watchdog, wait, was_called_off};
use crate::target::Control;
use crate::{ControlError, Pause, Paused};
use serde_json::json;
use std::os::fd::{AsRawFd, RawFd};

/// What the child says, and how it knows that QEMU has heard it.
const CONT: &[u8] = b"{\"execute\":\"cont\",\"id\":\"watchdog\"}\n";
const HEARD: &[u8] = b"watchdog";
/// Longest wait of the child for QEMU to answer, in milliseconds.
const LINGER_MS: i32 = 5000;

impl Pause for Qemu {
    fn pause(&self) -> Result<Paused<'_>, ControlError> {
        let mut qmp = self.control()?;
        if qmp.run_state()? != "running" {
            // Stands still already. The connection is kept: QEMU admits nobody else who could resume it there.
            return Ok(Paused::new(move || {
                drop(qmp);
                Ok(())
            }));
        }
        let connection = qmp.stream().as_raw_fd();
        // SAFETY: `let_go_on` makes async-signal-safe calls only.
        let watchdog = unsafe {
            Watchdog::start(connection, self.lease, |pipe, woken| let_go_on(connection, pipe, woken))
        }
        .map_err(|error| ControlError::Unavailable(format!("no process to guard the pause: {error}")))?;
        match qmp.execute("stop", json!({})) {
            Ok(_) => Ok(Paused::new(move || resume(&mut qmp, watchdog))),
            Err(error) => {
                // It may have stopped all the same.
                let _ = resume(&mut qmp, watchdog);
                Err(error.into())
            }
        }
    }
}

impl Control for Qemu {
    fn stop(&self) -> Result<(), ControlError> {
        Ok(self.control()?.execute("stop", json!({})).map(drop)?)
    }

    /// One that runs already does so still.
    fn go_on(&self) -> Result<(), ControlError> {
        Ok(self.control()?.execute("cont", json!({})).map(drop)?)
    }
}

/// The watchdog goes last: if this fails or is killed on the way, it still does its work.
fn resume(qmp: &mut Qmp, watchdog: Watchdog) -> Result<(), ControlError> {
    qmp.execute("cont", json!({}))?;
    if watchdog.call_off() {
        Ok(())
    } else {
        Err(ControlError::Refused(
            "the pause lasted longer than allowed, and the guest was resumed before its end".to_owned(),
        ))
    }
}

impl From<QmpError> for ControlError {
    fn from(error: QmpError) -> ControlError {
        match error {
            QmpError::Timeout(_) => ControlError::Timeout,
            QmpError::Refused { .. } => ControlError::Refused(error.to_string()),
            _ => ControlError::Unavailable(error.to_string()),
        }
    }
}

/// What the watchdog does. Only async-signal-safe calls.
fn let_go_on(qmp: RawFd, pipe: RawFd, woken: bool) {
    // SAFETY: all calls take this process's own descriptors and constants.
    unsafe {
        libc::send(qmp, CONT.as_ptr().cast(), CONT.len(), libc::MSG_NOSIGNAL);
        if !woken {
            // The lease ran out and the parent, if it lives, reads the answers. QEMU reads as long as one holds on.
            wait(pipe, LINGER_MS);
            if was_called_off(pipe) {
                return;
            }
        }
        await_answer(qmp);
    }
}

/// Reads until QEMU has answered, so that it does not see the end of the connection before the command.
///
/// # Safety
/// Async-signal-safe.
unsafe fn await_answer(qmp: RawFd) {
    let mut matched = 0usize;
    let mut byte = 0u8;
    // SAFETY: `wait` and one byte of the stack.
    while unsafe { wait(qmp, LINGER_MS) && libc::recv(qmp, (&raw mut byte).cast(), 1, 0) == 1 } {
        // The word's first letter comes once in it, so a mismatch starts over at most with this byte.
        matched = match HEARD.get(matched) {
            Some(wanted) if *wanted == byte => matched.wrapping_add(1),
            _ => usize::from(HEARD.first() == Some(&byte)),
        };
        if matched == HEARD.len() {
            return;
        }
    }
}
