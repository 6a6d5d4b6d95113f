//! What a QEMU command line says of its VM.
//!
//! *Does*: reads the options that name the VM, size it and say where its RAM and its control sockets are, in all forms
//! that QEMU takes (`key=value` lists with doubled commas, and JSON). Source: qemu-options.hx and util/qemu-option.c, QEMU 10.
//! *Trusts*: nothing; any user can start a process with any arguments. Lengths are bounded, control characters replaced.
//! *Never*: opens or runs anything that the text names.

use std::path::PathBuf;

/// Longest name kept, in characters.
const NAME_CHARS: usize = 128;
/// Options that stand alone. All others take one argument.
const FLAGS: &str = " h help version S nographic daemonize no-reboot no-shutdown nodefaults no-user-config nouserconfig \
    enable-kvm snapshot only-migratable full-screen no-acpi no-hpet no-fd-bootchk win2k-hack s singlestep preconfig \
    no-quit old-param semihosting usb mem-prealloc xen-attach xen-domid-restrict show-cursor alt-grab ctrl-grab \
    portrait no-frame localtime enable-fips no-kvm no-kvm-irqchip ";

/// The command line's answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Config {
    pub(super) name: Option<String>,
    pub(super) uuid: Option<String>,
    /// As asked for, rounded up to 8 KiB as QEMU does; the main backend's size, else 128 MiB, when not said.
    pub(super) ram_bytes: u64,
    pub(super) vcpus: u32,
    pub(super) machine: Option<String>,
    pub(super) accelerator: Option<String>,
    pub(super) qmp_sockets: Vec<PathBuf>,
    /// `-kernel`, as QEMU was told.
    pub(super) kernel: Option<PathBuf>,
    /// `-incoming`: its guest comes from elsewhere.
    pub(super) is_incoming: bool,
    /// `-machine max-ram-below-4g=`.
    pub(super) max_below_4g: Option<u64>,
    /// RAM blocks in guest order; empty for the machine's own single block.
    pub(super) blocks: Vec<Backend>,
    /// Files of RAM by the old `-mem-path`.
    pub(super) mem_path: bool,
    /// RAM that the options above do not describe, if there is any.
    pub(super) beyond: Option<&'static str>,
    /// Memory can be plugged in later.
    pub(super) can_grow: bool,
}

/// A `-object memory-backend-…`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Backend {
    pub(super) id: String,
    /// `file`, `memfd`, `ram`, …
    pub(super) kind: String,
    pub(super) len_bytes: u64,
    pub(super) path: Option<PathBuf>,
}

/// A list of `key=value`, in the order given.
struct Opts(Vec<(String, String)>);

impl Opts {
    /// Parses either form; a first value without key belongs to `implied`.
    fn parse(text: &str, implied: &str) -> Opts {
        if text.trim_start().starts_with('{') {
            return Opts::json(text);
        }
        let mut pairs = Vec::new();
        for (index, item) in split_commas(text).into_iter().enumerate() {
            match item.split_once('=') {
                Some((key, value)) => pairs.push((key.to_owned(), value.to_owned())),
                None if index == 0 => pairs.push((implied.to_owned(), item)),
                None => pairs.push((item, "on".to_owned())),
            }
        }
        Opts(pairs)
    }

    fn json(text: &str) -> Opts {
        let value = serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
        let fields = value.as_object().into_iter().flatten();
        let plain =
            |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Opts(fields.map(|(key, value)| (key.clone(), plain(value))).collect())
    }

    /// The last value of a key: what QEMU takes.
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|pair| pair.0 == key).map(|pair| pair.1.as_str())
    }
}

/// Splits at single commas; a doubled one is a comma of the value.
fn split_commas(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char == ',' && chars.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(char);
        }
    }
    items
}

/// A size as QEMU writes it: a number, maybe with a fraction, and a suffix; `unit` bytes without one.
pub(super) fn size(text: &str, unit: u64) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "" => unit,
        "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(number) => number.checked_mul(unit),
        Err(_) => number.parse::<f64>().ok().map(|number| (number * unit as f64) as u64),
    }
}

/// Text that is safe to print, of a bounded length.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(NAME_CHARS).map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

impl Config {
    /// Reads arguments, the program's name not among them.
    pub(super) fn parse(args: &[String]) -> Config {
        let mut config = Config { ram_bytes: 128 << 20, vcpus: 1, ..Config::default() };
        let mut found = Found::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(option) = arg.strip_prefix('-') else { continue };
            let option = option.strip_prefix('-').unwrap_or(option);
            if option == "enable-kvm" {
                config.accelerator = Some("kvm".to_owned());
            }
            if FLAGS.split_ascii_whitespace().any(|flag| flag == option) {
                continue;
            }
            let Some(value) = args.next() else { break };
            config.option(option, value, &mut found);
        }
        config.finish(found);
        config
    }

    fn option(&mut self, option: &str, value: &str, found: &mut Found) {
        let opts = |implied| Opts::parse(value, implied);
        match option {
            "name" => self.name = opts("guest").get("guest").map(printable),
            "uuid" => self.uuid = Some(printable(value).to_ascii_lowercase()),
            "m" => {
                let opts = opts("size");
                let asked = opts.get("size").and_then(|text| size(text, 1 << 20)).filter(|bytes| *bytes > 0);
                found.ram_bytes =
                    asked.and_then(|bytes| bytes.checked_next_multiple_of(8192)).or(found.ram_bytes);
                self.can_grow |= opts.get("maxmem").is_some();
            }
            "smp" => self.vcpus = vcpus(&opts("cpus")),
            "machine" | "M" => self.machine(&opts("type"), found),
            "accel" => self.accelerator = opts("accel").get("accel").map(printable),
            "qmp" | "qmp-pretty" => self.qmp(value, found),
            "chardev" => found.chardevs.push(opts("backend")),
            "mon" if opts("chardev").get("mode") == Some("control") => {
                found.monitors.extend(opts("chardev").get("chardev").map(str::to_owned));
            }
            "kernel" => self.kernel = Some(PathBuf::from(value)),
            "incoming" => self.is_incoming = true,
            "mem-path" => self.mem_path = true,
            "object" => self.object(&opts("qom-type"), found),
            "numa" => found.numa(&opts("type")),
            "device" => {
                let driver = opts("driver").get("driver").unwrap_or_default().to_owned();
                if ["pc-dimm", "nvdimm", "virtio-mem", "virtio-pmem", "cxl-type3"]
                    .iter()
                    .any(|d| driver.starts_with(d))
                {
                    self.beyond = Some("memory devices (DIMMs)");
                }
            }
            "readconfig" => self.beyond = Some("a configuration file (-readconfig)"),
            _ => {}
        }
    }

    fn machine(&mut self, opts: &Opts, found: &mut Found) {
        self.machine = opts.get("type").map(printable).or(self.machine.take());
        self.accelerator = opts.get("accel").map(printable).or(self.accelerator.take());
        self.max_below_4g = opts.get("max-ram-below-4g").and_then(|text| size(text, 1)).or(self.max_below_4g);
        found.main = opts.get("memory-backend").map(str::to_owned).or(found.main.take());
        if opts.get("confidential-guest-support").is_some() {
            self.beyond = Some("encrypted RAM");
        }
    }

    fn qmp(&mut self, value: &str, found: &mut Found) {
        if let Some(path) = value.strip_prefix("unix:") {
            self.qmp_sockets.extend(split_commas(path).first().map(PathBuf::from));
        } else if let Some(id) = value.strip_prefix("chardev:") {
            found.monitors.push(id.to_owned());
        }
    }

    fn object(&mut self, opts: &Opts, found: &mut Found) {
        let kind = opts.get("qom-type").unwrap_or_default();
        if let Some(kind) = kind.strip_prefix("memory-backend-") {
            found.backends.push(Backend {
                id: opts.get("id").unwrap_or_default().to_owned(),
                kind: kind.to_owned(),
                len_bytes: opts.get("size").and_then(|text| size(text, 1)).unwrap_or(0),
                path: opts.get("mem-path").map(PathBuf::from),
            });
        } else if kind == "secret" {
            // libvirt hands its monitor over as a descriptor; its secret lies in the same folder.
            let secret = opts.get("file").filter(|file| file.ends_with("/master-key.aes")).map(PathBuf::from);
            self.qmp_sockets.extend(secret.and_then(|file| Some(file.parent()?.join("monitor.sock"))));
        }
    }

    fn finish(&mut self, mut found: Found) {
        for id in &found.monitors {
            let chardev = found.chardevs.iter().find(|opts| opts.get("id") == Some(id.as_str()));
            self.qmp_sockets.extend(chardev.and_then(|opts| opts.get("path")).map(PathBuf::from));
        }
        self.qmp_sockets.dedup();
        let main = found.backends.iter().find(|backend| found.main.as_ref() == Some(&backend.id));
        let main = main.map(|backend| backend.len_bytes).filter(|bytes| *bytes > 0);
        self.ram_bytes = found.ram_bytes.or(main).unwrap_or(self.ram_bytes);
        found.nodes.sort_by_key(|node| node.0);
        let ids = if found.nodes.is_empty() {
            found.main.into_iter().collect()
        } else {
            found.nodes.into_iter().map(|node| node.1).collect::<Vec<_>>()
        };
        for id in ids {
            match found.backends.iter().find(|backend| backend.id == id) {
                Some(backend) => self.blocks.push(backend.clone()),
                None => self.beyond = Some("a memory backend that the command line does not define"),
            }
        }
    }
}

/// What must be put together at the end.
#[derive(Default)]
struct Found {
    chardevs: Vec<Opts>,
    monitors: Vec<String>,
    backends: Vec<Backend>,
    main: Option<String>,
    ram_bytes: Option<u64>,
    nodes: Vec<(u64, String)>,
}

impl Found {
    fn numa(&mut self, opts: &Opts) {
        let (Some("node"), Some(memdev)) = (opts.get("type"), opts.get("memdev")) else { return };
        let next = self.nodes.len() as u64;
        self.nodes
            .push((opts.get("nodeid").and_then(|id| id.parse().ok()).unwrap_or(next), memdev.to_owned()));
    }
}

fn vcpus(opts: &Opts) -> u32 {
    let number = |key: &str| opts.get(key).and_then(|text| text.parse::<u32>().ok());
    let product = ["sockets", "dies", "clusters", "cores", "threads"].into_iter().filter_map(number);
    number("cpus").unwrap_or_else(|| product.fold(1, u32::saturating_mul))
}

#[cfg(test)]
#[path = "argv_tests.rs"]
mod tests;
