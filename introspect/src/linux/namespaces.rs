//! Namespaces of a task, by inode number as the links in `/proc/PID/ns` show them.
//!
//! Layout: `struct nsproxy` (`include/linux/nsproxy.h`), `struct pid` (`include/linux/pid.h`), `ns_common.inum`.

use super::{Resolved, Task, View};
use crate::{AccessError, GapReason, Gva};
use lynceus_profiles::{Field, Profile};

/// Deepest pid namespace (`MAX_PID_NS_LEVEL`).
const MAX_LEVEL: u64 = 32;

/// Inode numbers of a task's namespaces; `None` for one that the task has none of (a zombie has no `nsproxy`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Namespaces {
    /// Mounts.
    pub mnt: Option<u32>,
    /// Process ids.
    pub pid: Option<u32>,
    /// Network.
    pub net: Option<u32>,
    /// Host and domain name.
    pub uts: Option<u32>,
    /// System V IPC and POSIX queues.
    pub ipc: Option<u32>,
    /// Control groups.
    pub cgroup: Option<u32>,
    /// Clocks.
    pub time: Option<u32>,
    /// Users.
    pub user: Option<u32>,
    /// The task's id in its own pid namespace.
    pub pid_inside: Option<u32>,
    /// Address of the mount namespace.
    pub mnt_at: Gva,
}

/// Members that lead to namespaces.
#[derive(Clone, Debug)]
pub struct NamespacesLayout {
    nsproxy: Field,
    /// Pointer in `nsproxy` and the inode number in what it points to.
    mnt: (Field, Field),
    net: (Field, Field),
    uts: (Field, Field),
    ipc: (Field, Field),
    cgroup: (Field, Field),
    /// Kernels since 5.6.
    time: Option<(Field, Field)>,
    user: Field,
    thread_pid: Field,
    pid_level: Field,
    pid_numbers: Field,
    upid_bytes: u32,
    upid_number: Field,
    upid_ns: Field,
    pid: Field,
}

impl NamespacesLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let pair = |member, ty| Ok((profile.field("nsproxy", member)?, profile.field(ty, "ns.inum")?));
        Ok(NamespacesLayout {
            nsproxy: profile.field("task_struct", "nsproxy")?,
            mnt: pair("mnt_ns", "mnt_namespace")?,
            net: pair("net_ns", "net")?,
            uts: pair("uts_ns", "uts_namespace")?,
            ipc: pair("ipc_ns", "ipc_namespace")?,
            cgroup: pair("cgroup_ns", "cgroup_namespace")?,
            time: pair("time_ns", "time_namespace").ok(),
            user: profile.field("user_namespace", "ns.inum")?,
            thread_pid: profile.field("task_struct", "thread_pid")?,
            pid_level: profile.field("pid", "level")?,
            pid_numbers: profile.field("pid", "numbers")?,
            upid_bytes: profile.size_of("upid")?,
            upid_number: profile.field("upid", "nr")?,
            upid_ns: profile.field("upid", "ns")?,
            pid: profile.field("pid_namespace", "ns.inum")?,
        })
    }
}

impl View<'_> {
    /// The namespaces of a task.
    pub fn namespaces(&self, task: &Task) -> Result<Namespaces, GapReason> {
        let layout = self.kernel().layouts.namespaces.as_ref().map_err(Clone::clone)?;
        let proxy = Gva(self.integer(task.at, layout.nsproxy)?);
        let mut found = Namespaces::default();
        if !proxy.is_null() {
            let inode = |(pointer, inum): (Field, Field)| -> Result<Option<u32>, AccessError> {
                let at = Gva(self.integer(proxy, pointer)?);
                if at.is_null() { Ok(None) } else { self.integer(at, inum).map(|value| Some(value as u32)) }
            };
            found.mnt = inode(layout.mnt)?;
            found.net = inode(layout.net)?;
            found.uts = inode(layout.uts)?;
            found.ipc = inode(layout.ipc)?;
            found.cgroup = inode(layout.cgroup)?;
            found.time = layout.time.map(inode).transpose()?.flatten();
            found.mnt_at = Gva(self.integer(proxy, layout.mnt.0)?);
        }
        let creds = self.creds(task)?;
        found.user = Some(self.integer(creds.user_ns, layout.user)? as u32);
        (found.pid, found.pid_inside) = self.pid_namespace(layout, task)?;
        Ok(found)
    }

    /// The pid namespace that a task lives in (its innermost), and its id there. A reaped zombie has none.
    fn pid_namespace(
        &self,
        layout: &NamespacesLayout,
        task: &Task,
    ) -> Result<(Option<u32>, Option<u32>), GapReason> {
        let pid = Gva(self.integer(task.at, layout.thread_pid)?);
        if pid.is_null() {
            return Ok((None, None));
        }
        let level = self.integer(pid, layout.pid_level)?;
        if level > MAX_LEVEL {
            return Err(GapReason::Limit(MAX_LEVEL));
        }
        let offset =
            (level as u32).saturating_mul(layout.upid_bytes).saturating_add(layout.pid_numbers.offset);
        let upid = pid.field(offset);
        let namespace = Gva(self.integer(upid, layout.upid_ns)?);
        let inode = self.integer(namespace, layout.pid)? as u32;
        Ok((Some(inode), Some(self.integer(upid, layout.upid_number)? as u32)))
    }
}
