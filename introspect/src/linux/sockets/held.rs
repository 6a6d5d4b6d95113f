//! Who holds a socket: the descriptors of processes, and messages that carry descriptors from one process to another.
//!
//! Layouts: `struct socket` (`include/linux/net.h`), `unix_skb_parms` (`include/net/af_unix.h`), `struct scm_fp_list`
//! (`include/net/scm.h`), `struct sk_buff` (`include/linux/skbuff.h`), Linux 5.10 to 7.2.

use super::sock::Socks;
use super::types::{Protocol, Socket};
use crate::linux::{Resolved, Task, View};
use crate::{GapReason, Gva, Partial};
use lynceus_profiles::{Field, Profile};
use std::collections::BTreeSet;

/// Most descriptors in one message (`SCM_MAX_FD` is 253).
const MAX_DESCRIPTORS: u64 = 256;

/// Members that lead from a Unix socket to the files in the messages that wait there.
#[derive(Clone, Debug)]
pub(super) struct FlightLayout {
    pub queue: Field,
    pub control: Field,
    pub files: Field,
    pub count: Field,
    pub list: Field,
}

impl FlightLayout {
    pub(super) fn resolve(profile: &Profile) -> Resolved<Self> {
        Ok(FlightLayout {
            queue: profile.field("sock", "sk_receive_queue")?,
            control: profile.field("sk_buff", "cb")?,
            files: profile.field("unix_skb_parms", "fp")?,
            count: profile.field("scm_fp_list", "count")?,
            list: profile.field("scm_fp_list", "fp")?,
        })
    }
}

impl View<'_> {
    /// The sockets that a process has open, in any of its threads: one of them may have descriptors of its own.
    pub fn sockets_held(&self, process: &Task) -> Partial<Socket> {
        let layout = match &self.kernel().layouts.sockets {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("sockets", missing.clone()),
        };
        let mut found = Partial::default();
        let (socks, mut seen) = (Socks::new(self, layout), BTreeSet::new());
        let tables = self.descriptor_tables(process);
        for files in found.absorb(tables) {
            let held = self.socket_files(files);
            for (_, private) in found.absorb(held) {
                let sock = self.integer(private, layout.sock.sock).map(Gva);
                let Some(sock) = found.ok("socket of a file", private, sock) else { continue };
                // One that is closed while it is looked at has none left.
                if !sock.is_null() && seen.insert(sock) {
                    found.keep("socket", sock, socks.socket(sock));
                }
            }
        }
        found
    }

    /// The files (`struct file`) that are on their way in messages to the Unix sockets among `sockets`.
    pub fn files_in_flight(&self, sockets: &[Socket]) -> Partial<Gva> {
        let what = "messages";
        let layout = match self.kernel().layouts.sockets.as_ref().map(|layout| &layout.flight) {
            Ok(Ok(layout)) => layout,
            Ok(Err(missing)) | Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let mut found = Partial::default();
        for socket in sockets.iter().filter(|socket| socket.protocol == Protocol::Unix) {
            let messages = self.list(what, socket.at.field(layout.queue.offset));
            for message in found.absorb(messages) {
                let files = self.files_of_message(layout, message);
                let files = found.ok("message", message, files);
                found.items.extend(files.into_iter().flatten());
            }
        }
        found
    }

    fn files_of_message(&self, layout: &FlightLayout, message: Gva) -> Result<Vec<Gva>, GapReason> {
        let control = message.field(layout.control.offset);
        let list = Gva(self.integer(control, layout.files)?);
        if list.is_null() {
            return Ok(Vec::new());
        }
        let count = self.integer(list, layout.count)?;
        if count > MAX_DESCRIPTORS {
            return Err(GapReason::Limit(MAX_DESCRIPTORS));
        }
        let first = list.field(layout.list.offset);
        (0..count).map(|index| Ok(self.pointer(Gva(first.0.wrapping_add(index.wrapping_mul(8))))?)).collect()
    }
}
