//! How people and programs talk to the appliance: a Unix socket, JSON lines.
//!
//! *Does*: knows by the kernel's word who is on the other end; anyone whom the socket's mode lets in may ask, root and named users may change something.
//! *Trusts*: the kernel's word on that. *Never*: waits for a client.

use super::config::Control;
use super::deeds::{Task, What};
use super::respond::Deed;
use super::supervisor::Supervisor;
use super::{Event, Process, status};
use crate::output::escape;
use anyhow::{Context, Result, bail};
use lynceus_policy::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Sender, SyncSender, channel};
use std::time::Duration;

/// A request is short.
const MAX_REQUEST_BYTES: u64 = 64 << 10;
/// Clients at the same time.
const MAX_CLIENTS: usize = 64;
/// A client that says nothing for so long is forgotten.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(300);
/// The appliance answers within this time: a reload tests and enforces a policy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// How everything is.
    Status,
    /// What was found in the VMs that run.
    Findings,
    /// A VM's processes.
    Processes(String),
    /// What was done to VMs, and what waits for a person.
    Responses,
    /// Undo what was done to a VM.
    Release(String),
    /// Do what waits under this alert's id.
    Confirm(String),
    /// Take a changed configuration and policy.
    Reload,
}

impl Request {
    /// Whether it changes something, or costs much.
    fn is_admins(&self) -> bool {
        matches!(self, Request::Release(_) | Request::Confirm(_) | Request::Reload | Request::Processes(_))
    }
}

/// A request, and who makes it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    /// In words.
    pub(super) by: String,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// To [`Request::Status`].
    Status(Box<status::Status>),
    /// To [`Request::Findings`].
    Findings(Vec<status::FoundRow>),
    /// To [`Request::Processes`].
    Processes(Vec<Process>),
    /// To [`Request::Responses`].
    Responses(Vec<status::ResponseRow>),
    /// It is done, and this came of it.
    Done(String),
    /// It is not done.
    Refused(String),
}

/// Opens the socket and answers whoever comes.
pub(super) fn serve(control: &Control, events: SyncSender<Event>) -> Result<()> {
    let listener = listen(control).with_context(|| control.socket.display().to_string())?;
    let admins = control.admins.clone();
    let work = move || {
        let clients = std::sync::Arc::new(());
        for stream in listener.incoming().flatten() {
            if std::sync::Arc::strong_count(&clients) > MAX_CLIENTS {
                continue;
            }
            let (events, admins, held) = (events.clone(), admins.clone(), clients.clone());
            std::thread::spawn(move || {
                if let Err(error) = talk(stream, &admins, &events) {
                    tracing::debug!("a client: {error:#}");
                }
                drop(held);
            });
        }
    };
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(work)
        .map(drop)
        .context("no thread for the socket")
}

fn listen(control: &Control) -> Result<UnixListener> {
    let path = &control.socket;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another appliance listens there");
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // Nobody but root until it belongs to whom it should.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    if control.readers.is_some() || !control.admins.is_empty() {
        chown(path, None, control.readers)?;
        let mode = if control.admins.is_empty() { 0o660 } else { 0o666 };
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    }
    Ok(listener)
}

/// Who is on the other end, and what they may.
struct Peer {
    uid: u32,
    pid: i32,
    is_admin: bool,
}

fn peer(stream: &UnixStream, admins: &BTreeSet<u32>) -> Result<Peer> {
    let known = rustix::net::sockopt::socket_peercred(stream).context("who are you?")?;
    let (uid, pid) = (known.uid.as_raw(), known.pid.as_raw_nonzero().get());
    let is_admin = uid == 0 || uid == rustix::process::geteuid().as_raw() || admins.contains(&uid);
    Ok(Peer { uid, pid, is_admin })
}

fn talk(stream: UnixStream, admins: &BTreeSet<u32>, events: &SyncSender<Event>) -> Result<()> {
    let peer = peer(&stream, admins)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(MAX_REQUEST_BYTES).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Err(error) => Answer::Refused(format!("not a request: {error}")),
            Ok(request) if request.is_admins() && !peer.is_admin => {
                Answer::Refused(format!("user {} may ask, and change nothing", peer.uid))
            }
            Ok(request) => {
                let by = format!("user {} (process {})", peer.uid, peer.pid);
                let (sender, receiver) = channel();
                events.send(Event::Control(Asked { request, by }, sender)).context("the appliance ends")?;
                let late = |_| Answer::Refused("no answer in time".to_owned());
                receiver.recv_timeout(ANSWER_TIMEOUT).unwrap_or_else(late)
            }
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        reader.get_mut().write_all(&text)?;
    }
}

/// Answers one request, in the supervisor's thread.
pub(super) fn handle(supervisor: &mut Supervisor, asked: Asked, answer: &Sender<Answer>) {
    let done = match asked.request {
        Request::Status => Answer::Status(Box::new(status::of(supervisor))),
        Request::Findings => Answer::Findings(status::findings(supervisor)),
        Request::Responses => Answer::Responses(status::responses(supervisor)),
        Request::Processes(vm) => match supervisor.by_name(&vm) {
            // A thread waits for the worker, not the supervisor.
            Some(id) => return list(supervisor, id, answer.clone()),
            None => Answer::Refused(format!("no VM is called {vm:?}")),
        },
        Request::Release(vm) => release(supervisor, &vm, &asked.by),
        Request::Confirm(id) => confirm(supervisor, &id, &asked.by),
        Request::Reload => match supervisor.reload() {
            Ok(what) => Answer::Done(what),
            Err(error) => Answer::Refused(format!("nothing was changed: {error:#}")),
        },
    };
    let _ = answer.send(done);
}

fn list(supervisor: &mut Supervisor, id: u64, answer: Sender<Answer>) {
    let (sender, receiver) = channel();
    supervisor.list(id, sender);
    std::thread::spawn(move || {
        let listed =
            receiver.recv_timeout(ANSWER_TIMEOUT).unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let _ = answer.send(listed.map_or_else(Answer::Refused, Answer::Processes));
    });
}

fn release(supervisor: &mut Supervisor, vm: &str, by: &str) -> Answer {
    let now = Timestamp::now();
    let watched = supervisor.named(vm);
    let findings: Vec<String> = watched.map(|vm| vm.findings.keys().cloned().collect()).unwrap_or_default();
    let target = watched.map(|vm| vm.seen.target.clone());
    let Some(done) = supervisor.responses.release(vm, findings.into_iter(), now) else {
        return Answer::Refused(format!("nothing was done to {vm}"));
    };
    supervisor.keep_responses();
    let deeds = [Deed::Isolate, Deed::Pause].into_iter().filter(|deed| done.deeds.contains_key(deed.name()));
    let what = What::Release(deeds.collect());
    let was = done.deeds.into_keys().collect::<Vec<_>>().join(" and ");
    let reason = format!("released from {was}");
    supervisor.act(Task { vm: vm.to_owned(), target, what, because: by.to_owned(), reason });
    Answer::Done(format!("{vm} is being released from {was}"))
}

fn confirm(supervisor: &mut Supervisor, id: &str, by: &str) -> Answer {
    let Some(waiting) = supervisor.responses.waiting.get(id).cloned() else {
        return Answer::Refused(format!("nothing waits under {:?}", escape(id)));
    };
    let target = supervisor.named(&waiting.vm).map(|vm| vm.seen.target.clone());
    supervisor.responses.did(&waiting.vm, waiting.deed, id, Timestamp::now());
    supervisor.keep_responses();
    let told = format!("{}: {}", waiting.deed.name(), waiting.vm);
    let (what, because) = (What::Do(waiting.deed), by.to_owned());
    supervisor.act(Task { vm: waiting.vm, target, what, because, reason: waiting.summary });
    Answer::Done(told)
}

/// Asks the appliance something, from another process.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<Answer> {
    let shown = || format!("{}: does `lynceus run` run here?", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(shown)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT + Duration::from_secs(5)))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("the appliance does not answer")?;
    serde_json::from_str(&line)
        .context("the appliance's answer cannot be understood: is it of another version?")
}
