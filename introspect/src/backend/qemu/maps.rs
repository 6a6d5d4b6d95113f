//! The mappings of a process, from `/proc/PID/maps` or `smaps` (proc(5); Linux fs/proc/task_mmu.c).
//!
//! *Does*: parses both into the same table. *Trusts*: the host kernel. *Never*: fails; a line it does not know is skipped.

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    /// First address in the process.
    pub(super) start: u64,
    /// Length in bytes.
    pub(super) len_bytes: u64,
    /// Readable and writable, as RAM is.
    pub(super) writable: bool,
    /// Changes go to the file, so that the file is what the guest sees.
    pub(super) shared: bool,
    /// Where in the file it starts.
    pub(super) offset: u64,
    /// Device and inode; inode 0 is no file.
    pub(super) file: FileId,
    /// As the kernel prints it.
    pub(super) path: String,
    /// `VM_DONTCOPY`, which QEMU sets on every RAM block (`qemu_madvise(…, QEMU_MADV_DONTFORK)` in `ram_block_add`) and hardly
    /// anything else has. Only `smaps` tells.
    pub(super) dont_fork: bool,
}

/// What a mapping is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FileId {
    /// Device, as major and minor.
    pub(super) dev: (u32, u32),
    /// 0 for none.
    pub(super) inode: u64,
}

impl Mapping {
    /// First address past it.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.len_bytes)
    }

    /// Whether `next` goes on where this one ends, in memory and in the file.
    fn goes_on_in(&self, next: &Mapping) -> bool {
        self.end() == next.start
            && (self.shared, self.file, self.dont_fork) == (next.shared, next.file, next.dont_fork)
            && (self.file.inode == 0 || self.offset.checked_add(self.len_bytes) == Some(next.offset))
    }
}

/// Parses `maps` or `smaps`.
pub(super) fn parse(text: &[u8]) -> Vec<Mapping> {
    let mut maps: Vec<Mapping> = Vec::new();
    for line in String::from_utf8_lossy(text).lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(last) = maps.last_mut() {
                last.dont_fork = flags.split_ascii_whitespace().any(|flag| flag == "dc");
            }
        } else {
            maps.extend(parse_line(line));
        }
    }
    maps
}

fn parse_line(line: &str) -> Option<Mapping> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let mode = fields.next()?;
    let offset = hex(fields.next()?)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let dev = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode = fields.next()?.parse().ok()?;
    let path = fields.next().unwrap_or_default().trim_start().to_owned();
    Some(Mapping {
        start,
        len_bytes: end.checked_sub(start)?,
        writable: mode.starts_with("rw"),
        shared: mode.ends_with('s'),
        offset,
        file: FileId { dev, inode },
        path,
        dont_fork: false,
    })
}

/// Neighbours that continue each other as one: the kernel splits a mapping when flags of a part of it change.
pub(super) fn join(maps: &[Mapping]) -> Vec<Mapping> {
    let mut joined: Vec<Mapping> = Vec::new();
    for map in maps.iter().filter(|map| map.writable) {
        match joined.last_mut() {
            Some(last) if last.goes_on_in(map) => {
                last.len_bytes = last.len_bytes.saturating_add(map.len_bytes)
            }
            _ => joined.push(map.clone()),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0 \nRss: 5 kB\nVmFlags: rd wr mr mw me dc ac sd hg mg \n\
7f0000400000-7f0000800000 rw-p 00000000 00:00 0 \nVmFlags: rd wr dc \n\
7f0000800000-7f0000801000 ---p 00000000 00:00 0 \nVmFlags: mr\n\
7f0001000000-7f0011000000 rw-s 00001000 00:01 1234                       /memfd:memory-backend-memfd (deleted)\nVmFlags: dc\n\
55d3c4a00000-55d3c4c00000 rw-p 00000000 08:1f 77   /usr/bin/with space\n\
garbage\n1-0 rw-p 0 0:0 0\n";

    #[test]
    fn reads_smaps_and_joins_neighbours() {
        let maps = parse(SMAPS.as_bytes());
        assert_eq!(maps.len(), 5);
        assert!(maps[0].dont_fork && maps[1].dont_fork && !maps[2].dont_fork && !maps[4].dont_fork);
        assert_eq!((maps[3].offset, maps[3].file.inode, maps[3].shared), (0x1000, 1234, true));
        assert_eq!((maps[4].file.dev, maps[4].path.as_str()), ((8, 0x1f), "/usr/bin/with space"));
        let joined = join(&maps);
        assert_eq!(joined.len(), 3);
        assert_eq!(joined[0].len_bytes, 8 << 20);
    }
}
