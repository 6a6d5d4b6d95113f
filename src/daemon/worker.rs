//! The process that looks at one VM.
//!
//! *Does*: opens what it needs, locks itself down, and only then reads the first byte of the guest; answers the supervisor's requests one after the
//! other. *Trusts*: the supervisor. *Never*: decides anything: what a finding means for a VM is the supervisor's to say.

use super::protocol::{Begin, Channel, Looked, ModulesOf, Process, Ready, Reply, Request, Unpacks};
use super::protocol::{MAX_FINDINGS, MAX_GAPS_TOLD, MAX_MODULES};
use crate::attach::{Guest, Prepared};
use crate::cli::LookArgs;
use crate::commands::ps;
use crate::output::escape;
use crate::process_rules::who;
use crate::sandbox::{self, Limits};
use anyhow::{Context, Result, bail};
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::memory::ram_bytes;
use lynceus_introspect::{ControlError, Partial, Pause, Paused, Processor, Processors};
use lynceus_policy::syntax;
use lynceus_profiles::Block;
use lynceus_profiles::kernel_file::KernelImage;
use lynceus_profiles::module_file::ModuleFolder;
use lynceus_scanners::signatures::{self, HashList, Rules, ScanCache, Scope, Wanted};
use lynceus_scanners::{Detector, Finding, evidence};
use std::io::BufReader;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The detector that compares modules with their files.
const MODULE_TEXT: &str = "module_text";

/// Works until the supervisor hangs up.
pub(crate) fn run() -> Result<()> {
    sandbox::close_inherited(&[])?;
    let stream = std::io::stdin().as_fd().try_clone_to_owned().context("no channel to a supervisor")?;
    let mut channel = Channel::new(UnixStream::from(stream));
    let Some(begin) = channel.receive::<Begin>().context("not started by `lynceus run`")? else {
        return Ok(());
    };
    if let Some(unpacks) = &begin.unpacks {
        let unpacked = match unpacks {
            Unpacks::Kernel(digest) => unpack(&begin, digest, &mut channel),
            Unpacks::Modules(wanted) => unpack_modules(&begin, wanted, &mut channel),
        };
        return match unpacked {
            Err(error) => Ok(channel.send(&Reply::Failed(escape(&format!("{error:#}"))))?),
            Ok(()) => Ok(()),
        };
    }
    let channel = Arc::new(Mutex::new(channel));
    match Worker::start(&begin, channel.clone()) {
        Ok((worker, ready)) => {
            send(&channel, &Reply::Ready(Box::new(ready)))?;
            worker.serve(&channel)
        }
        Err(error) => send(&channel, &Reply::Failed(escape(&format!("{error:#}")))),
    }
}

fn send(channel: &Mutex<Channel>, reply: &Reply) -> Result<()> {
    channel.lock().unwrap_or_else(PoisonError::into_inner).send(reply).context("the supervisor is gone")
}

/// Unpacks a kernel's file for the workers of all VMs that were started with it. Reads no guest: nobody but who made the file could make it say
/// something else.
fn unpack(begin: &Begin, digest: &str, channel: &mut Channel) -> Result<()> {
    let prepared =
        Prepared::open(&begin.target, &look(begin))?.with_image(None)?.for_worker(&begin.vm, None)?;
    let file = prepared.image_of(digest).context("the kernel's file is another one by now")?;
    sandbox::lock_down(&Limits { memory_bytes: begin.memory_bytes, ..Limits::default() })?;
    let image = KernelImage::load(BufReader::new(&*file))?;
    give(&image.unpacked(digest), channel)
}

/// The same for files of modules. They are read with the rights that it takes, and looked into without.
fn unpack_modules(begin: &Begin, wanted: &ModulesOf, channel: &mut Channel) -> Result<()> {
    let folder = || wanted.folder.display().to_string();
    let files = ModuleFolder::open(&wanted.folder, &wanted.release).with_context(folder)?;
    let packed = files.packed(wanted.names.iter()).with_context(folder)?;
    sandbox::lock_down(&Limits { memory_bytes: begin.memory_bytes, ..Limits::default() })?;
    give(&packed.unpack(&wanted.key), channel)
}

fn give(unpacked: &Block<'_>, channel: &mut Channel) -> Result<()> {
    channel.send(&Reply::Unpacked(unpacked.len_bytes())).context("the supervisor is gone")?;
    Ok(unpacked.write(&mut channel.writer())?)
}

fn look(begin: &Begin) -> LookArgs {
    LookArgs {
        profiles: begin.profiles.clone(),
        no_cache: false,
        tries: begin.tries,
        pause_ms: begin.pause_ms,
        allow_unrestricted: begin.allow_unrestricted,
    }
}

struct Worker {
    vm: String,
    guest: Guest,
    rules: Option<(Rules, Option<HashList>, ScanCache)>,
    /// It compares code with files.
    compares: bool,
}

impl Worker {
    fn start(begin: &Begin, channel: Arc<Mutex<Channel>>) -> Result<(Worker, Ready)> {
        let started = Instant::now();
        let signatures =
            (!begin.rules.is_empty() || begin.hashes.is_some()).then(|| rules(begin)).transpose()?;
        // All that takes rights comes before the first byte of the guest is read.
        let supervisor = Arc::new(AskSupervisor(channel.clone()));
        let prepared = Prepared::open(&begin.target, &look(begin))?;
        let prepared = if begin.compares { prepared.with_image(None)? } else { prepared };
        let prepared = prepared.with_unpacked(&begin.kernels).with_modules(begin.modules.as_ref());
        let prepared = prepared.for_worker(&begin.vm, Some(supervisor))?;
        let limits = Limits { memory_bytes: begin.memory_bytes, ..Limits::default() };
        let missing_layers = sandbox::lock_down(&limits)?.missing();
        let mut guest = prepared.attach()?;
        for learned in guest.take_learned() {
            send(&channel, &Reply::Learned(learned.len() as u64))?;
            channel.lock().unwrap_or_else(PoisonError::into_inner).send_bytes(&learned)?;
        }
        let image = if begin.compares { guest.find_image()? } else { None };
        let mut warnings = Vec::new();
        let rules = match signatures {
            Some((rules, hashes)) => {
                let bad =
                    rules.bad().iter().map(|bad| format!("{}: {}", bad.path.display(), escape(&bad.why)));
                warnings.extend(bad);
                let cache = ScanCache::for_ram(ram_bytes(&**guest.linux().memory()));
                Some((rules, hashes, cache.context("no random numbers for the keys of the cache")?))
            }
            None => None,
        };
        sandbox::give_memory_back();
        let kernel = guest.linux().kernel();
        let ready = Ready {
            release: escape(&kernel.profile.identity.release),
            profile: format!("{:?}", guest.attached.source).to_lowercase(),
            image,
            modules: guest.linux().module_files().map_or(0, |files| files.len()),
            lacks: if begin.compares { lacks(guest.linux()) } else { Vec::new() },
            unshared: guest.unshared.take(),
            missing_layers,
            warnings,
            took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        Ok((Worker { vm: begin.vm.clone(), guest, rules, compares: begin.compares }, ready))
    }

    fn serve(&self, channel: &Mutex<Channel>) -> Result<()> {
        loop {
            let request = channel.lock().unwrap_or_else(PoisonError::into_inner).receive::<Request>();
            let Some(request) = request.context("the supervisor's request cannot be read")? else {
                return Ok(());
            };
            send(channel, &self.answer(request))?;
        }
    }

    fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Look(names) => {
                let is_named = |detector: &Detector| names.iter().any(|name| name == detector.name);
                let mut found = looked(self.guest.look(is_named));
                if self.compares && names.iter().any(|name| name == MODULE_TEXT) {
                    found.lacks = lacks(self.guest.linux());
                }
                self.give_memory_back();
                Reply::Looked(Box::new(found))
            }
            Request::Scan(scopes) => self.scan(&scopes),
            Request::Evidence(finding) => self.evidence(&finding),
            Request::Processes => Reply::Processes(self.processes()),
            Request::Who(connection) => Reply::Who(who(self.guest.linux(), &connection)),
            Request::Paused(_) | Request::Registers(_) => {
                Reply::Failed("an answer that nobody waits for".to_owned())
            }
        }
    }

    fn scan(&self, scopes: &[syntax::Scope]) -> Reply {
        let Some((rules, hashes, cache)) = &self.rules else {
            return Reply::Failed("there are no rules to scan with".to_owned());
        };
        let has = |scope| scopes.contains(&scope);
        let scope = Scope {
            processes: has(syntax::Scope::Process),
            files: has(syntax::Scope::Files),
            kernel: has(syntax::Scope::Kernel),
            physical: has(syntax::Scope::Physical),
            pid: None,
        };
        let wanted = Wanted { hashes: hashes.as_ref(), cache: Some(cache), ..Wanted::new(rules, scope) };
        let (found, summary) =
            signatures::scan(self.guest.linux(), &self.guest.options, &wanted, &mut |_| {});
        cache.end_turn();
        sandbox::give_memory_back();
        Reply::Looked(Box::new(Looked { scanned: Some(summary), ..looked(found) }))
    }

    fn evidence(&self, finding: &Finding) -> Reply {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let collected = evidence::collect(self.guest.linux(), &self.vm, time_ms, finding);
        self.give_memory_back();
        let text = collected.map(|evidence| {
            let mut text = Vec::new();
            evidence.write(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
        });
        match text.transpose() {
            Ok(text) => Reply::Evidence(text),
            Err(error) => Reply::Failed(format!("the evidence cannot be written: {error}")),
        }
    }

    fn give_memory_back(&self) {
        // Files that were parsed are some megabytes, and parsed again within milliseconds.
        self.guest.linux().module_files().inspect(|files| files.forget());
        sandbox::give_memory_back();
    }

    fn processes(&self) -> Vec<Process> {
        let wanted = ps::Wanted { threads: false, environ: false };
        let found = self.guest.linux().observe(&self.guest.options, |view| ps::rows(view, wanted));
        found.result.map(Process::from).items
    }
}

fn rules(begin: &Begin) -> Result<(Rules, Option<HashList>)> {
    let rules = if begin.rules.is_empty() { Rules::none() } else { Rules::load(&begin.rules)? };
    Ok((rules, begin.hashes.as_deref().map(HashList::load).transpose()?))
}

fn looked(mut found: Partial<Finding>) -> Looked {
    let more = found.items.len().saturating_sub(MAX_FINDINGS);
    found.items.truncate(MAX_FINDINGS);
    let told = |gap: &lynceus_introspect::Gap| escape(&format!("{}: {}", gap.what, gap.reason));
    Looked {
        more: more as u64,
        gaps: (found.gaps.len() as u64).saturating_add(found.more_gaps),
        told_gaps: found.gaps.iter().take(MAX_GAPS_TOLD).map(told).collect(),
        findings: found.items,
        scanned: None,
        lacks: Vec::new(),
    }
}

/// Modules that are loaded and of which there is no file to compare them with.
fn lacks(guest: &LinuxGuest) -> Vec<String> {
    let has = |name: &str| guest.module_files().is_some_and(|files| files.has(name));
    let listed = guest.view().modules().items.into_iter().map(|module| module.name);
    listed.filter(|name| !has(name)).take(MAX_MODULES).collect()
}

/// Pauses, and learns what the hypervisor knows of processors, by asking: the worker may neither speak to the hypervisor nor start what would let the
/// guest go on if it died.
#[derive(Clone)]
struct AskSupervisor(Arc<Mutex<Channel>>);

impl AskSupervisor {
    fn ask(&self, what: &Reply) -> Result<Request> {
        let mut channel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        channel.send(what)?;
        channel.receive()?.context("the supervisor is gone")
    }

    fn ask_pause(&self, what: &Reply) -> Result<()> {
        match self.ask(what)? {
            Request::Paused(None) => Ok(()),
            Request::Paused(Some(why)) => bail!("{why}"),
            other => bail!("the supervisor says {other:?} where a pause was asked for"),
        }
    }
}

impl Processors for AskSupervisor {
    fn processors(&self) -> Result<Vec<Processor>, ControlError> {
        match self.ask(&Reply::Registers) {
            Ok(Request::Registers(told)) => told,
            Ok(other) => Err(ControlError::Refused(format!(
                "the supervisor says {other:?} where registers were asked for"
            ))),
            Err(error) => Err(ControlError::Refused(format!("{error:#}"))),
        }
    }
}

impl Pause for AskSupervisor {
    fn pause(&self) -> Result<Paused<'_>, ControlError> {
        let refused = |error: anyhow::Error| ControlError::Unavailable(format!("{error:#}"));
        self.ask_pause(&Reply::Pause).map_err(refused)?;
        Ok(Paused::new(move || self.ask_pause(&Reply::Resume).map_err(refused)))
    }
}

/// How long the supervisor should wait for a worker to be ready: a kernel that nobody knows is searched for in all of RAM.
pub(super) const TIME_TO_ATTACH: Duration = Duration::from_secs(120);
