//! The command line's shape. The help texts here are the reference: man pages and completions are made from them.

mod guard;
mod selftest;

pub(crate) use guard::{
    ApplyArgs, ExplainArgs, FirewallCommand, FirewallTopArgs, FlowsArgs, FolderArgs, IsolateArgs, OwnersArgs,
    PlanArgs, PolicyCommand, StateArgs,
};

pub(crate) use selftest::{SandboxArgs, SelftestCommand};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0  clean: all of it was read, nothing is wrong
  1  findings
  2  error: nothing useful was read
  3  incomplete: nothing wrong was seen, but not everything could be read

A TARGET is a running VM's name or uuid (see `lynceus vms`), pid:N of its QEMU process, or the path of a dump file
(raw, LiME, ELF core, kdump-compressed, AVML; the format is detected).";

/// Looks into virtual machines from outside: no agent, no symbols, no configuration.
#[derive(Parser)]
#[command(name = "lynceus", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Print JSON Lines with stable field names instead of a table
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the virtual machines that run on this host
    Vms {
        /// Go on: tell of each that appears and each that is gone
        #[arg(short, long)]
        follow: bool,
    },
    /// List the processes of a guest
    Ps {
        #[command(flatten)]
        target: TargetArgs,
        /// Show threads too, a line each
        #[arg(short = 'T', long)]
        threads: bool,
        /// Show each process's environment (JSON only: field `environ`)
        #[arg(short = 'e', long)]
        environ: bool,
    },
    /// Show the processes of a guest as a tree
    Tree(TargetArgs),
    /// List the loaded kernel modules
    Modules(TargetArgs),
    /// List memory maps, as /proc/PID/maps does
    Maps(ProcessArgs),
    /// List open files with their full paths
    Files(ProcessArgs),
    /// List sockets with the processes that own them
    Sockets(TargetArgs),
    /// List mounts, of every mount namespace
    Mounts(TargetArgs),
    /// List network interfaces with their addresses
    Net(TargetArgs),
    /// Print the kernel log
    Dmesg(TargetArgs),
    /// List loaded BPF programs, and where they are pinned
    Bpf(TargetArgs),
    /// Tell what the guest is: kernel, slides, paging, boot time, and how it was found
    Info(TargetArgs),
    /// Look for hidden tasks and modules, hooks in the kernel, stolen credentials
    Check(CheckArgs),
    /// Tell what a detector's findings mean and what to look at next
    Explain {
        /// The detector's name; all of them without one
        detector: Option<String>,
    },
    /// See a finding again in the evidence that was kept of it, with no VM
    Replay(ReplayArgs),
    /// Scan a guest's memory with YARA rules
    Scan(ScanArgs),
    /// Write a guest's memory to a file
    Dump(DumpArgs),
    /// Kernel profiles: what is known of kernel builds
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Policies: check, test, explain and apply them
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// The firewall on the VMs' interfaces
    #[command(subcommand)]
    Firewall(FirewallCommand),
    /// Watch and guard this host: the appliance
    Run(RunArgs),
    /// Tell how the appliance is, and the VMs that it watches
    Status(SocketArgs),
    /// Watch the appliance: VMs, looks, findings; a VM's processes
    Top(SocketArgs),
    /// What the appliance did to VMs, and what waits for a person
    #[command(subcommand)]
    Respond(RespondCommand),
    /// Have the appliance read its configuration, policy and rules again
    Reload(SocketArgs),
    /// The appliance's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What `run` starts for each VM
    #[command(hide = true)]
    Worker,
    /// Cut a VM off the network, its open connections too
    Isolate(IsolateArgs),
    /// Put an isolated VM back under its policy
    Release(IsolateArgs),
    /// Try on this host whether what protects the appliance itself holds
    #[command(subcommand)]
    Selftest(SelftestCommand),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder
    Man {
        /// The folder, made if missing
        folder: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct RunArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", env = "LYNCEUS_CONFIG", default_value = "/etc/lynceus/lynceus.toml")]
    pub(crate) config: PathBuf,
}

#[derive(Args)]
pub(crate) struct SocketArgs {
    /// Where the appliance listens
    #[arg(long, value_name = "SOCKET", env = "LYNCEUS_SOCKET", default_value = crate::daemon::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
}

#[derive(Subcommand)]
pub(crate) enum RespondCommand {
    /// List what was done, and what waits
    List(SocketArgs),
    /// Undo what was done to a VM: it runs, under its policy
    Release {
        /// Its name
        vm: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Do what waits
    Confirm {
        /// The alert's id, as `list` shows it
        id: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Tell what is wrong with a configuration
    Check(RunArgs),
}

#[derive(Args)]
pub(crate) struct TargetArgs {
    /// A running VM's name or uuid, pid:N, xen:DOMID, or a dump file's path
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// Running VMs' names or uuids, pid:N, xen:DOMID, or paths of dump files
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Compare the kernel's code and constants with this file: its vmlinuz
    ///
    /// Not needed where one was imported (`lynceus profile import`), or where whoever started the VM named it.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Compare the code of kernel modules with the files in this folder: /lib/modules/RELEASE of the guest's kernel
    ///
    /// Without it the host's own folder is used, where the host has modules of that very build.
    #[arg(long, value_name = "DIR")]
    pub(crate) modules: Option<PathBuf>,
    /// Compare the guests that run the same kernel with each other as well, and name those that differ from most
    #[arg(long)]
    pub(crate) cohort: bool,
    /// Look again, on average so often, at moments that a guest cannot foresee; what was told is not told again
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) every: Option<std::time::Duration>,
    /// With --every: this many looks and no more
    #[arg(long, value_name = "N", requires = "every")]
    pub(crate) times: Option<u32>,
    /// Keep what shows each finding in a file of this folder, for `lynceus replay`
    #[arg(long, value_name = "DIR")]
    pub(crate) evidence: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

#[derive(Args)]
pub(crate) struct ReplayArgs {
    /// Evidence that `lynceus check --evidence` or `lynceus scan --evidence` kept
    pub(crate) file: PathBuf,
    /// Rule files or folders, for a match of a signature: those that it was found with, or later ones
    #[arg(short, long, num_args = 1.., value_name = "PATH")]
    pub(crate) rules: Vec<PathBuf>,
    /// The folder with the kernel's modules, for a finding in the code of one
    #[arg(long, value_name = "DIR")]
    pub(crate) modules: Option<PathBuf>,
    /// The kernel's vmlinuz, where its profile is not kept here
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

#[derive(Args)]
pub(crate) struct ProcessArgs {
    /// A running VM's name or uuid, pid:N, xen:DOMID, or a dump file's path
    pub(crate) target: String,
    /// Only this process
    #[arg(short, long)]
    pub(crate) pid: Option<u32>,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

/// How to look; the defaults need nothing.
#[derive(Args, Clone)]
pub(crate) struct LookArgs {
    /// Where kernel profiles are kept
    #[arg(long, value_name = "DIR", env = "LYNCEUS_PROFILES", help_heading = "Looking")]
    pub(crate) profiles: Option<PathBuf>,
    /// Neither use nor keep a profile: find everything in memory again
    #[arg(long, help_heading = "Looking")]
    pub(crate) no_cache: bool,
    /// Look again this often while the guest changes what is being read
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Looking")]
    pub(crate) tries: u32,
    /// Pause a guest that keeps moving for at most this long; 0 never pauses
    #[arg(long, value_name = "MS", default_value_t = 20, help_heading = "Looking")]
    pub(crate) pause_ms: u64,
    /// Read a Xen domain even where this kernel cannot restrict the handle to that one domain
    #[arg(long, help_heading = "Looking")]
    pub(crate) allow_unrestricted: bool,
}

#[derive(Args)]
pub(crate) struct ScanArgs {
    /// Running VMs' names or uuids, pid:N, xen:DOMID, or paths of dump files; what several have in common is scanned once
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Rule files, or folders with *.yar and *.yara files
    #[arg(short, long, required_unless_present = "hashes", num_args = 1.., value_name = "PATH")]
    pub(crate) rules: Vec<PathBuf>,
    /// SHA-256 hashes of files: lines `deny HASH`, `allow HASH`, or as sha256sum prints them (denied)
    ///
    /// They are held against files that are wholly in memory. A denied file is a finding. What signatures say of an allowed
    /// file is counted and not told.
    #[arg(long, value_name = "FILE")]
    pub(crate) hashes: Option<PathBuf>,
    /// Where to look: process, files, kernel, physical [default: the first three]
    #[arg(short, long, value_enum, value_delimiter = ',', hide_possible_values = false)]
    pub(crate) scope: Vec<ScanScope>,
    /// Of the processes only this one
    #[arg(short, long)]
    pub(crate) pid: Option<u32>,
    /// Of the files only these: a path within its file system, a folder, or a pattern (`/home/*/bin/*`, `**/*.so`)
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Threads that scan [default: one a core]
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroU8>,
    /// Scan with libyara instead of boreal: slower, and it knows nothing again of a region that changed
    #[cfg(feature = "libyara")]
    #[arg(long)]
    pub(crate) libyara: bool,
    /// Scan again so often, until interrupted: what did not change is not scanned again, what was told is not told again
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) every: Option<std::time::Duration>,
    /// With --every: this many scans and no more
    #[arg(long, value_name = "N", requires = "every")]
    pub(crate) times: Option<u32>,
    /// Keep what shows each match of a rule in a file of this folder, for `lynceus replay --rules`
    #[arg(long, value_name = "DIR")]
    pub(crate) evidence: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

/// Parts of a guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScanScope {
    /// Every map of every process, as far as it is in memory
    #[value(alias = "processes")]
    Process,
    /// Every file in the page cache, as a file: what ran, also when deleted
    Files,
    /// The kernel's text and read-only data, and its modules
    Kernel,
    /// All RAM, whoever owns it
    Physical,
}

#[derive(Args)]
pub(crate) struct DumpArgs {
    /// A running VM's name or uuid, pid:N, xen:DOMID, or a dump file's path
    pub(crate) target: String,
    /// The file to write
    pub(crate) out: PathBuf,
    /// Its format
    #[arg(long, value_enum, default_value = "elf")]
    pub(crate) format: DumpFormat,
    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Write FILE.manifest.json beside it: which VM, when, which kernel, SHA-256 of the file
    #[arg(long)]
    pub(crate) manifest: bool,
    /// Keep the guest paused while writing, for a dump of one instant
    #[arg(long)]
    pub(crate) pause: bool,
    /// Read a Xen domain even where this kernel cannot restrict the handle to that one domain
    #[arg(long)]
    pub(crate) allow_unrestricted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DumpFormat {
    /// ELF core, as QEMU's dump-guest-memory
    Elf,
    /// LiME, version 1
    Lime,
    /// AVML, compressed: Volatility 3 reads it
    Avml,
}

#[derive(Subcommand)]
pub(crate) enum ProfileCommand {
    /// List the profiles kept on this host
    List {
        #[command(flatten)]
        look: LookArgs,
    },
    /// Show a kept profile, or where a type's members lie
    Show {
        /// Build id (or the start of one), release, or a profile file
        profile: String,
        /// A structure, such as task_struct
        #[arg(long = "type", value_name = "NAME")]
        type_name: Option<String>,
        /// A symbol, such as init_task
        #[arg(long, value_name = "NAME")]
        symbol: Option<String>,
        #[command(flatten)]
        look: LookArgs,
    },
    /// Build a profile from a guest and write it as Volatility 3 symbols (ISF)
    Build {
        /// A running VM's name or uuid, pid:N, xen:DOMID, or a dump file's path
        target: String,
        /// The file to write (.json)
        out: PathBuf,
        #[command(flatten)]
        look: LookArgs,
    },
    /// Keep a profile from a file that you trust: vmlinuz, vmlinux, or Volatility 3 symbols (.json, .json.xz)
    ///
    /// A distribution's vmlinuz has all that is needed. For a kernel that was built without BTF, give a vmlinux with debug
    /// information, as FILE or with --types; for one without kallsyms of its data, give its System.map.
    Import(ImportArgs),
}

/// What `profile import` takes.
#[derive(clap::Args)]
pub(crate) struct ImportArgs {
    /// The file
    pub(crate) file: PathBuf,
    /// Take the types from this file: an ELF file with BTF or DWARF, or a BTF blob (/sys/kernel/btf/vmlinux)
    #[arg(long, value_name = "FILE")]
    pub(crate) types: Option<PathBuf>,
    /// Take the symbols from this System.map
    #[arg(long, value_name = "FILE")]
    pub(crate) system_map: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}
