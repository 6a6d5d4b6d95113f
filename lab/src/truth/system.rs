//! The kernel as a whole: modules, log, clocks, BPF objects, symbols.

use anyhow::{Context, Result};

use super::{Truth, columns, hex};

/// One loaded module, from `/proc/modules` and `/sys/module`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Name.
    pub name: String,
    /// Size in bytes, as `/proc/modules` has it.
    pub size: u64,
    /// Users.
    pub refs: i64,
    /// Modules that use it.
    pub used_by: Vec<String>,
    /// `Live`, `Loading` or `Unloading`.
    pub state: String,
    /// Address of its code.
    pub base: u64,
    /// `/sys/module/NAME/coresize`, in bytes.
    pub core_size: Option<u64>,
}

/// One record of the kernel's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Severity, 0 to 7.
    pub level: u8,
    /// Facility; 0 for the kernel.
    pub facility: u32,
    /// Sequence number.
    pub sequence: u64,
    /// Time after boot, in microseconds.
    pub time_us: u64,
    /// The message; unprintable bytes as `\xNN`, as /dev/kmsg shows them.
    pub text: String,
}

/// The guest's clocks when the capture began, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// Since 1970.
    pub realtime_ns: u64,
    /// Since boot, without sleep.
    pub monotonic_ns: u64,
    /// Since boot.
    pub boottime_ns: u64,
}

/// One loaded BPF program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfProgram {
    /// Id.
    pub id: u32,
    /// `BPF_PROG_TYPE_*`.
    pub kind: u32,
    /// Digest of its instructions, hexadecimal.
    pub tag: String,
    /// Name; empty for none.
    pub name: String,
}

/// One BPF map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfMap {
    /// Id.
    pub id: u32,
    /// `BPF_MAP_TYPE_*`.
    pub kind: u32,
    /// Size of a key, in bytes.
    pub key_size: u32,
    /// Size of a value, in bytes.
    pub value_size: u32,
    /// Entries at most.
    pub max_entries: u32,
    /// Name; empty for none.
    pub name: String,
}

/// One line of `/proc/kallsyms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Address at run time.
    pub address: u64,
    /// Type letter, as nm(1).
    pub kind: char,
    /// Name.
    pub name: String,
    /// Module, if it is not the kernel's own.
    pub module: Option<String>,
}

impl Truth {
    /// Every module that the kernel lists.
    pub fn modules(&self) -> Result<Vec<Module>> {
        let mut modules = self.lines("/proc/modules", 0, module)?;
        for module in &mut modules {
            let size = self.text(&format!("/sys/module/{}/coresize", module.name));
            module.core_size = size.and_then(|text| text.trim().parse().ok());
        }
        Ok(modules)
    }

    /// The kernel's log, oldest first.
    pub fn log(&self) -> Result<Vec<LogRecord>> {
        let text = self.text("/dev/kmsg").unwrap_or_default();
        // A line that starts with a blank is a property of the record before it.
        let records = text.lines().filter(|line| !line.starts_with(' '));
        records.map(|line| record(line).with_context(|| format!("/dev/kmsg: cannot read {line:?}"))).collect()
    }

    /// The guest's clocks when the capture began.
    pub fn clocks(&self) -> Result<Clocks> {
        let text = self.need("/lab/clock")?;
        let clock = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        let read = || {
            Some(Clocks {
                realtime_ns: clock("realtime")?,
                monotonic_ns: clock("monotonic")?,
                boottime_ns: clock("boottime")?,
            })
        };
        read().context("/lab/clock cannot be read")
    }

    /// When the guest booted, in seconds since 1970.
    pub fn boot_time(&self) -> Result<u64> {
        let text = self.need("/proc/stat")?;
        let time = text.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok());
        time.context("/proc/stat has no btime")
    }

    /// `/proc/version`: the kernel's banner.
    pub fn version(&self) -> Result<String> {
        Ok(self.need("/proc/version")?.trim_end().to_owned())
    }

    /// The initial UTS namespace's host name.
    pub fn host_name(&self) -> Result<String> {
        Ok(self.need("/proc/sys/kernel/hostname")?.trim_end().to_owned())
    }

    /// Every BPF program, by id.
    pub fn bpf_programs(&self) -> Result<Vec<BpfProgram>> {
        self.bpf("prog ", |line| {
            let ([id, kind, tag, name], _) = columns(line)?;
            Some(BpfProgram {
                id: id.parse().ok()?,
                kind: kind.parse().ok()?,
                tag: tag.to_owned(),
                name: named(name),
            })
        })
    }

    /// Every BPF map, by id.
    pub fn bpf_maps(&self) -> Result<Vec<BpfMap>> {
        self.bpf("map ", |line| {
            let ([id, kind, key, value, max, name], _) = columns(line)?;
            Some(BpfMap {
                id: id.parse().ok()?,
                kind: kind.parse().ok()?,
                key_size: key.parse().ok()?,
                value_size: value.parse().ok()?,
                max_entries: max.parse().ok()?,
                name: named(name),
            })
        })
    }

    fn bpf<T>(&self, word: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
        let text = self.text("/lab/bpf").unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix(word));
        lines.map(|line| read(line).with_context(|| format!("/lab/bpf: cannot read {line:?}"))).collect()
    }
}

/// Reads the answer to `KALLSYMS`.
pub fn parse_kallsyms(bytes: &[u8]) -> Result<Vec<Symbol>> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(|line| symbol(line).with_context(|| format!("kallsyms: cannot read {line:?}"))).collect()
}

fn symbol(line: &str) -> Option<Symbol> {
    let ([address, kind, name], module) = columns(line)?;
    let module = module.trim().strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    Some(Symbol {
        address: hex(address)?,
        kind: kind.chars().next()?,
        name: name.into(),
        module: module.map(str::to_owned),
    })
}

fn module(line: &str) -> Option<Module> {
    let ([name, size, refs, used_by, state, base], _) = columns(line)?;
    Some(Module {
        name: name.to_owned(),
        size: size.parse().ok()?,
        // A module that cannot be unloaded shows "-".
        refs: if refs == "-" { 0 } else { refs.parse().ok()? },
        used_by: used_by.split(',').filter(|name| !matches!(*name, "" | "-")).map(str::to_owned).collect(),
        state: state.to_owned(),
        base: hex(base)?,
        core_size: None,
    })
}

/// `6,1234,5678901,-;text`, Documentation/ABI/testing/dev-kmsg.
fn record(line: &str) -> Option<LogRecord> {
    let (prefix, text) = line.split_once(';')?;
    let mut fields = prefix.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    Some(LogRecord {
        level: (priority & 7) as u8,
        facility: priority >> 3,
        sequence: fields.next()?.parse().ok()?,
        time_us: fields.next()?.parse().ok()?,
        text: text.to_owned(),
    })
}

fn named(name: &str) -> String {
    if name == "-" { String::new() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::truth;
    use super::*;

    #[test]
    fn modules_take_their_size_from_two_places() {
        let truth = truth(&[
            (
                "/proc/modules",
                "veth 36864 2 a,b, Live 0xffffffffc0123000\ndummy 16384 0 - Live 0xffffffffc0100000 (E)\n",
            ),
            ("/sys/module/veth/coresize", "36000\n"),
        ]);
        let modules = truth.modules().unwrap();
        assert_eq!((modules[0].size, modules[0].refs, modules[0].core_size), (36864, 2, Some(36000)));
        assert_eq!((modules[0].used_by.len(), modules[0].base), (2, 0xffff_ffff_c012_3000));
        assert_eq!(
            (modules[1].name.as_str(), modules[1].used_by.len(), modules[1].core_size),
            ("dummy", 0, None)
        );
    }

    #[test]
    fn the_log_leaves_properties_out() {
        let truth =
            truth(&[("/dev/kmsg", "6,7,123456,-;one; two\n SUBSYSTEM=net\n30,8,123457,-;systemd\\x0a\n")]);
        let log = truth.log().unwrap();
        assert_eq!(log.len(), 2);
        assert_eq!(
            (log[0].level, log[0].sequence, log[0].time_us, log[0].text.as_str()),
            (6, 7, 123_456, "one; two")
        );
        assert_eq!((log[1].level, log[1].facility), (6, 3));
    }

    #[test]
    fn the_rest_of_the_system_is_read() {
        let truth = truth(&[
            ("/lab/clock", "realtime 3000000000\nmonotonic 2\nboottime 4\n"),
            ("/lab/bpf", "prog 1 1 ed0b58b4c56c6a45 lab_filter\nmap 2 6 4 8 16 -\n"),
            ("/proc/stat", "cpu 1\nbtime 1795233000\n"),
        ]);
        let clocks = Clocks { realtime_ns: 3_000_000_000, monotonic_ns: 2, boottime_ns: 4 };
        assert_eq!((truth.clocks().unwrap(), truth.boot_time().unwrap()), (clocks, 1_795_233_000));
        assert_eq!(truth.bpf_programs().unwrap()[0].name, "lab_filter");
        assert_eq!(
            (truth.bpf_maps().unwrap()[0].max_entries, truth.bpf_maps().unwrap()[0].name.as_str()),
            (16, "")
        );
        let symbols =
            parse_kallsyms(b"ffffffff81000000 T _text\nffffffffc0100000 t dummy_setup\t[dummy]\n").unwrap();
        assert_eq!(
            (symbols[0].address, symbols[0].kind, symbols[0].module.as_deref()),
            (0xffff_ffff_8100_0000, 'T', None)
        );
        assert_eq!(symbols[1].module.as_deref(), Some("dummy"));
    }
}
