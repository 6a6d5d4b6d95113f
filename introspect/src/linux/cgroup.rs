//! Control groups, and the container whose name a group's path carries.
//!
//! Layout: `struct css_set`, `struct cgroup` (`include/linux/cgroup-defs.h`), `struct kernfs_node` (`include/linux/kernfs.h`).

use super::{Resolved, Task, View};
use crate::{GapReason, Gva};
use lynceus_profiles::{Field, Profile};

/// Deepest path followed.
const MAX_DEPTH: usize = 64;
/// Longest name of a group (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 256;
/// Hexadecimal digits of a container id (Docker, containerd, CRI-O, Podman).
const CONTAINER_ID_DIGITS: usize = 64;

/// Members that lead from a task to its group's path.
#[derive(Clone, Debug)]
pub struct CgroupLayout {
    cgroups: Field,
    default_group: Field,
    node: Field,
    parent: Field,
    name: Field,
}

impl CgroupLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let node = |member| profile.field("kernfs_node", member);
        Ok(CgroupLayout {
            cgroups: profile.field("task_struct", "cgroups")?,
            default_group: profile.field("css_set", "dfl_cgrp")?,
            node: profile.field("cgroup", "kn")?,
            // Marked as protected by RCU in 6.15.
            parent: node("__parent").or_else(|_| node("parent"))?,
            name: node("name")?,
        })
    }
}

impl View<'_> {
    /// Path of a task's control group (version 2 hierarchy), from the hierarchy's root.
    pub fn cgroup(&self, task: &Task) -> Result<String, GapReason> {
        let layout = self.kernel().layouts.cgroup.as_ref().map_err(Clone::clone)?;
        let set = Gva(self.integer(task.at, layout.cgroups)?);
        let group = Gva(self.integer(set, layout.default_group)?);
        let mut node = Gva(self.integer(group, layout.node)?);
        let mut names = Vec::new();
        loop {
            let parent = Gva(self.integer(node, layout.parent)?);
            if parent.is_null() {
                break;
            }
            if names.len() >= MAX_DEPTH {
                return Err(GapReason::Limit(MAX_DEPTH as u64));
            }
            names.push(self.string(Gva(self.integer(node, layout.name)?), MAX_NAME_BYTES)?);
            node = parent;
        }
        names.reverse();
        Ok(format!("/{}", names.join("/")))
    }
}

/// The container id in a control group's path: 64 hexadecimal digits, as `docker-ID.scope`, `/docker/ID`,
/// `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`; or the name of an LXC container (`lxc.payload.NAME`).
pub fn container_of(cgroup: &str) -> Option<&str> {
    cgroup
        .rsplit('/')
        .find_map(|part| {
            let bare = part.strip_suffix(".scope").unwrap_or(part);
            let id = bare.get(bare.len().checked_sub(CONTAINER_ID_DIGITS)?..)?;
            let before = bare.len().checked_sub(CONTAINER_ID_DIGITS).and_then(|at| at.checked_sub(1));
            let alone = before.is_none_or(|at| bare.as_bytes().get(at) == Some(&b'-'));
            (alone && id.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(id)
        })
        .or_else(|| cgroup.split('/').find_map(|part| part.strip_prefix("lxc.payload.")))
}

#[cfg(test)]
mod tests {
    use super::container_of;

    #[test]
    fn containers_are_known_by_their_id() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("/docker/{id}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/machine.slice/libpod-{id}.scope/container"),
        ] {
            assert_eq!(container_of(&path), Some(id.as_str()), "{path}");
        }
        assert_eq!(container_of("/lxc.payload.web/init.scope"), Some("web"));
        for path in ["/", "/user.slice/user-0.slice", &format!("/x{id}"), &format!("/{}g", &id[1..])] {
            assert_eq!(container_of(path), None, "{path}");
        }
    }
}
