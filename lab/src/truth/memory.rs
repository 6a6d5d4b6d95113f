//! A process's mappings, open files and mounts, from `/proc/PID/{maps,fd,fdinfo,fdstat,mountinfo}` (proc(5)).

use anyhow::{Context, Result};

use super::{Truth, columns, device, hex};

/// One mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Such as `r-xp`.
    pub perms: String,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Device, major and minor.
    pub dev: (u32, u32),
    /// Inode number; 0 for none.
    pub inode: u64,
    /// File (with ` (deleted)` where it is), `[stack]`, `[heap]`..., or nothing.
    pub path: String,
}

/// One open file of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fd {
    /// Number.
    pub fd: u32,
    /// Link target: a path, `socket:[123]`, `pipe:[123]`, `anon_inode:[eventpoll]`...
    pub target: String,
    /// Open flags, with `O_CLOEXEC` (0o2000000) of the descriptor.
    pub flags: u32,
    /// Position.
    pub pos: i64,
    /// Mount id.
    pub mount_id: u32,
    /// Device, major and minor.
    pub dev: (u32, u32),
    /// Inode number.
    pub inode: u64,
    /// Type and rights, as st_mode.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
}

/// One mount of a process's mount namespace, as seen from the process's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Mount id.
    pub id: u32,
    /// Mount id of the parent.
    pub parent: u32,
    /// Device, major and minor.
    pub dev: (u32, u32),
    /// What of the file system is mounted.
    pub root: String,
    /// Where.
    pub mount_point: String,
    /// Options of this mount, such as `rw,nosuid`.
    pub options: String,
    /// Propagation, such as `shared:1`.
    pub propagation: Vec<String>,
    /// File-system type.
    pub fstype: String,
    /// Source.
    pub source: String,
    /// Options of the file system.
    pub super_options: String,
}

impl Truth {
    /// The mappings of one process; none for a kernel thread. `[vsyscall]` is left out: it belongs to no process.
    pub fn maps(&self, pid: u32) -> Result<Vec<Map>> {
        let maps = self.lines(&format!("/proc/{pid}/maps"), 0, map)?;
        Ok(maps.into_iter().filter(|map| map.path != "[vsyscall]").collect())
    }

    /// (virtual address, page-frame number) of every page of a process that is in memory, in order. Captured for `lab-rwx`,
    /// `lab-maps` and `lab-inner` only.
    pub fn pages(&self, pid: u32) -> Result<Vec<(u64, u64)>> {
        self.lines(&format!("/proc/{pid}/pages"), 0, |line| {
            let ([address, frame], _) = columns(line)?;
            Some((hex(address)?, hex(frame)?))
        })
    }

    /// The open files of one process, by number.
    pub fn fds(&self, pid: u32) -> Result<Vec<Fd>> {
        let base = format!("/proc/{pid}");
        let numbers = self.numbers(&format!("{base}/fd/"), "");
        numbers
            .into_iter()
            .map(|number| {
                self.fd(&base, number).with_context(|| format!("{base}: descriptor {number} cannot be read"))
            })
            .collect()
    }

    fn fd(&self, base: &str, number: u32) -> Option<Fd> {
        let info = self.text(&format!("{base}/fdinfo/{number}"))?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let stats = self.text(&format!("{base}/fdstat"))?;
        let stat = stats.lines().find_map(|line| line.strip_prefix(&format!("{number} ")))?;
        let ([dev, inode, mode, size], _) = columns(stat)?;
        Some(Fd {
            fd: number,
            target: self.text(&format!("{base}/fd/{number}"))?,
            flags: u32::from_str_radix(field("flags:")?, 8).ok()?,
            pos: field("pos:")?.parse().ok()?,
            mount_id: field("mnt_id:")?.parse().ok()?,
            dev: device(dev, 10)?,
            inode: inode.parse().ok()?,
            mode: u32::from_str_radix(mode, 8).ok()?,
            size: size.parse().ok()?,
        })
    }

    /// The mounts of one process's mount namespace.
    pub fn mounts(&self, pid: u32) -> Result<Vec<Mount>> {
        self.lines(&format!("/proc/{pid}/mountinfo"), 0, mount)
    }
}

fn map(line: &str) -> Option<Map> {
    let ([range, perms, offset, dev, inode], path) = columns(line)?;
    let (start, end) = range.split_once('-')?;
    Some(Map {
        start: hex(start)?,
        end: hex(end)?,
        perms: perms.to_owned(),
        offset: hex(offset)?,
        dev: device(dev, 16)?,
        inode: inode.parse().ok()?,
        path: path.replace("\\012", "\n"),
    })
}

fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let ([id, parent, dev, root, mount_point, options], propagation) = columns(before)?;
    let ([fstype, source, super_options], _) = columns(after)?;
    Some(Mount {
        id: id.parse().ok()?,
        parent: parent.parse().ok()?,
        dev: device(dev, 10)?,
        root: unescape(root),
        mount_point: unescape(mount_point),
        options: options.to_owned(),
        propagation: propagation.split_whitespace().map(str::to_owned).collect(),
        fstype: fstype.to_owned(),
        source: unescape(source),
        super_options: super_options.to_owned(),
    })
}

/// Turns `\040` and the like back into characters.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(code) => plain.extend([char::from(code)].into_iter().chain(part.chars().skip(3))),
            None => plain.extend(['\\'].into_iter().chain(part.chars())),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::super::tests::truth;

    #[test]
    fn mappings_keep_blanks_in_paths() {
        let maps = "7f00-7f10 r--p 00001000 00:1f 77                     /run/a b (deleted)\n\
            7f20-7f30 rwxp 00000000 00:00 0 \n\
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
        let maps = truth(&[("/proc/5/maps", maps)]).maps(5).unwrap();
        assert_eq!(maps.len(), 2);
        assert_eq!((maps[0].start, maps[0].end, maps[0].offset), (0x7f00, 0x7f10, 0x1000));
        assert_eq!((maps[0].dev, maps[0].inode, maps[0].path.as_str()), ((0, 31), 77, "/run/a b (deleted)"));
        assert_eq!((maps[1].perms.as_str(), maps[1].path.as_str()), ("rwxp", ""));
    }

    #[test]
    fn pages_are_hexadecimal() {
        let truth = truth(&[("/proc/5/pages", "7f0000001000 1a2b\n7f0000002000 10\n")]);
        assert_eq!(truth.pages(5).unwrap(), [(0x7f00_0000_1000, 0x1a2b), (0x7f00_0000_2000, 0x10)]);
        assert_eq!(truth.pages(6).unwrap(), []);
    }

    #[test]
    fn open_files_join_their_four_sources() {
        let truth = truth(&[
            ("/proc/5/fd/300", "/tmp/x y"),
            ("/proc/5/fdinfo/300", "pos:\t4242\nflags:\t02100001\nmnt_id:\t21\nino:\t9\n"),
            ("/proc/5/fdstat", "3 0:2 1 100644 1\n300 0:31 77 100644 9000\n"),
        ]);
        let fds = truth.fds(5).unwrap();
        let [fd] = fds.as_slice() else { panic!("{fds:?}") };
        assert_eq!((fd.fd, fd.target.as_str(), fd.flags, fd.pos), (300, "/tmp/x y", 0o2100001, 4242));
        assert_eq!((fd.mount_id, fd.dev, fd.inode, fd.mode, fd.size), (21, (0, 31), 77, 0o100644, 9000));
    }

    #[test]
    fn mounts_are_unescaped() {
        let line = "35 21 0:30 / /mnt/with\\040two\\040spaces rw,relatime shared:14 master:3 - tmpfs lab\\040spaced rw,size=64k\n";
        let mounts = truth(&[("/proc/1/mountinfo", line)]).mounts(1).unwrap();
        assert_eq!((mounts[0].id, mounts[0].parent, mounts[0].dev), (35, 21, (0, 30)));
        assert_eq!(
            (mounts[0].mount_point.as_str(), mounts[0].source.as_str()),
            ("/mnt/with two spaces", "lab spaced")
        );
        assert_eq!(mounts[0].propagation, ["shared:14", "master:3"]);
        assert_eq!((mounts[0].fstype.as_str(), mounts[0].super_options.as_str()), ("tmpfs", "rw,size=64k"));
    }
}
