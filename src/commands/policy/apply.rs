//! `lynceus policy apply`: enforces a policy, and goes back by itself when nobody confirms it in time.

use crate::cli::{ApplyArgs, StateArgs};
use crate::commands::firewall::Guarded;
use crate::commands::names::{self, Looked};
use crate::output::{Outcome, Output, escape};
use anyhow::{Context, Result, bail};
use lynceus_firewall::enforce::{self, Done};
use lynceus_firewall::names::Book;
use lynceus_firewall::nft::Nft;
use lynceus_firewall::state::{State, Store, Vm};
use lynceus_firewall::{Moment, lint, tiers};
use lynceus_policy::bundle::{self, Bundle, Trust, TrustError, TrustedKey};
use lynceus_policy::{Level, Policy, Timestamp};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whoever applies waits so long for servers: a look-up's own time, and some.
const LOOK_UP: Duration = Duration::from_secs(6);

/// Checks, tests and enforces.
pub(super) fn run(args: &ApplyArgs) -> Result<Outcome> {
    let trust = Trust::load(&args.trust)?;
    let wanted = trusted(&trust, &args.folder.policy)?;
    // Before the state is locked: nobody waits for a server but who applies.
    let looked = Looked::up(&names::of(wanted.policy.vms.values()), &args.state.state, LOOK_UP)?;
    let store = Store::open(&args.state.state)?;
    let nft = Nft::default();
    let Checked { old, mut new, book, complete } = checked(&store, &nft, &wanted, looked)?;
    let started = Instant::now();
    let done = match (&args.confirm, &old) {
        (Some(time), Some(old)) => {
            let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX).max(1);
            let deadline = Timestamp(Timestamp::now().0.saturating_add(seconds));
            let done = enforce::enforce_for_a_while(&nft, &store, old, &mut new, deadline)?;
            watch(&args.state.state)?;
            eprintln!("going back at {deadline} UTC unless `lynceus policy confirm` comes first");
            done
        }
        (confirm, old) => {
            if confirm.is_some() {
                eprintln!("nothing was enforced before: there is nothing to go back to");
            }
            let done = enforce::enforce(&nft, &store, old.as_ref(), &mut new)?;
            store.set_pending(None)?;
            done
        }
    };
    let took = started.elapsed();
    store.keep_names(&book)?;
    tell(&new, done, took);
    Ok(complete)
}

/// What is to be enforced, who signed it, and its serial number. A folder has neither.
struct Wanted<'a> {
    policy: Policy,
    signer: Option<&'a TrustedKey>,
    serial: Option<u64>,
}

/// A policy that may be enforced.
struct Checked {
    old: Option<State>,
    new: State,
    book: Book,
    complete: Outcome,
}

/// The policy is signed by whom it must be, says nothing that cannot be enforced, and its tests hold.
fn checked(store: &Store, nft: &Nft, wanted: &Wanted<'_>, looked: Looked) -> Result<Checked> {
    let Wanted { policy, signer, serial } = wanted;
    refuse_what_is_not_enforced(policy)?;
    enforce::roll_back_if_due(nft, store, Timestamp::now())?;
    let old = store.enforced()?;
    let mut complete = Outcome::Clean;
    let (book, mut told) = looked.into_book(store, &names::of(policy.vms.values()), old.as_ref());
    let names = book.names();
    told.extend(names::private(policy.vms.values(), &names));
    for trouble in told {
        eprintln!("lynceus: {}", escape(&trouble));
        complete = Outcome::Incomplete;
    }
    let mut new = state(policy, old.as_ref(), nft, &mut complete)?;
    new.names = names;
    refuse_what_is_not_signed_for(*signer, *serial, old.as_ref(), &mut new)?;
    refuse_failed_tests(policy, &new)?;
    Ok(Checked { old, new, book, complete })
}

/// Enforces a policy for good, where it may be. What is enforced from then on; nothing is changed where it is that already.
///
/// Names stand for what is known of them: whoever keeps enforcing looks them up, and nobody waits for it here.
pub(crate) fn enforce_now(state: &Path, policy: &Path, trust: &Path) -> Result<State> {
    let trust = Trust::load(trust)?;
    let wanted = trusted(&trust, policy)?;
    let store = Store::open(state)?;
    let nft = Nft::default();
    let Checked { old, mut new, book, .. } = checked(&store, &nft, &wanted, Looked::default())?;
    match old {
        Some(old) if old.is_like(&new) && enforce::has_generation(&nft, &old) => Ok(old),
        old => {
            enforce::enforce(&nft, &store, old.as_ref(), &mut new)?;
            store.set_pending(None)?;
            store.keep_names(&book)?;
            Ok(new)
        }
    }
}

/// What is applied is the very bytes that were signed.
fn trusted<'a>(trust: &'a Trust, path: &Path) -> Result<Wanted<'a>> {
    if !super::is_bundle(path) {
        if trust.require_signature {
            return Err(TrustError::Unsigned.into());
        }
        let policy = super::load(Output::new(false), path)?;
        return Ok(Wanted { policy, signer: None, serial: None });
    }
    let (bundle, bytes) = Bundle::read(path)?;
    let mut signature = path.as_os_str().to_owned();
    signature.push(".minisig");
    let signer = trust.signer(&bytes, Path::new(&signature))?;
    Ok(Wanted { policy: Policy::of(&bundle.folder()?)?, signer, serial: Some(bundle.serial) })
}

/// An older bundle is refused, and one that changes what its signer may not change.
fn refuse_what_is_not_signed_for(
    signer: Option<&TrustedKey>,
    serial: Option<u64>,
    old: Option<&State>,
    new: &mut State,
) -> Result<(), TrustError> {
    let last = old.map_or(0, |old| old.serial);
    new.serial = serial.unwrap_or(last);
    if new.serial < last {
        return Err(TrustError::Older { serial: new.serial, last });
    }
    let nothing = BTreeMap::new();
    let changed = tiers::changed(old.map_or(&nothing, |old| &old.vms), &new.vms);
    signer.map_or(Ok(()), |signer| bundle::may_change(signer, &changed))
}

/// A policy that says more than this version does would protect less than its author thinks.
fn refuse_what_is_not_enforced(policy: &Policy) -> Result<()> {
    let lints = lint::all(policy, &Moment::at(Timestamp::now()));
    let errors: Vec<String> = lints
        .iter()
        .filter(|lint| lint.level == Level::Error)
        .map(|lint| format!("{}: {}", lint.place, lint.message))
        .collect();
    if !errors.is_empty() {
        bail!("not applied:\n{}", errors.join("\n"));
    }
    Ok(())
}

fn refuse_failed_tests(policy: &Policy, state: &State) -> Result<()> {
    let results = super::test::results(policy, &state.moment());
    let failed: Vec<String> = results
        .iter()
        .filter_map(|row| row.why.as_ref().map(|why| format!("{}: {why}", row.place())))
        .collect();
    if !failed.is_empty() {
        bail!("not applied: {} of {} tests failed:\n{}", failed.len(), results.len(), failed.join("\n"));
    }
    Ok(())
}

/// What is to be enforced: the policy, the ports as they are now, and who is isolated.
fn state(policy: &Policy, old: Option<&State>, nft: &Nft, complete: &mut Outcome) -> Result<State> {
    let vm = |policy_of: &lynceus_policy::VmPolicy| Vm {
        isolation: Arc::new(policy.isolated(policy_of)),
        policy: Arc::new(policy_of.clone()),
    };
    let vms: BTreeMap<String, Vm> = policy.vms.iter().map(|(name, of)| (name.clone(), vm(of))).collect();
    let mut isolated = old.map(|old| old.isolated.clone()).unwrap_or_default();
    isolated.retain(|name| vms.contains_key(name));
    let holds = vms.values().any(|vm| vm.policy.asks()) && enforce::holds_packets(nft);
    let Guarded { ports, bridges } = Guarded::look(policy.vms.values(), false, nft)?;
    for (name, port) in ports.iter().filter(|(_, port)| port.path.is_none()) {
        eprintln!(
            "lynceus: port {name} of VM {} is closed: nothing on this host can judge its packets",
            port.vm
        );
        *complete = Outcome::Incomplete;
    }
    Ok(State { at: Timestamp::now(), vms, ports, isolated, holds, bridges, ..State::default() })
}

fn tell(state: &State, done: Done, took: Duration) {
    let how = if done.is_whole { "put there anew" } else { "changed in place" };
    println!(
        "{} VMs, {} ports, generation {}: {} commands, {how}, in {} ms",
        state.vms.len(),
        state.ports.len(),
        state.generation,
        done.commands,
        took.as_millis()
    );
    for name in &state.isolated {
        println!("VM {name} stays isolated: `lynceus release {name}` ends that");
    }
}

/// Starts what goes back at the deadline: a process of its own, that a closed terminal does not end.
fn watch(state: &Path) -> Result<()> {
    let program = std::env::current_exe().context("where is this program?")?;
    Command::new(program)
        .args(["policy", "rollback", "--wait", "--state"])
        .arg(state)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start what would go back")?;
    Ok(())
}

/// Keeps what was applied.
pub(super) fn confirm(args: &StateArgs) -> Result<Outcome> {
    let store = Store::open(&args.state)?;
    if enforce::roll_back_if_due(&Nft::default(), &store, Timestamp::now())? {
        bail!("too late: the old rules are back");
    }
    if store.pending()?.is_none() {
        bail!("nothing waits for a confirmation");
    }
    store.set_pending(None)?;
    println!("confirmed");
    Ok(Outcome::Clean)
}

/// Goes back where nobody confirmed in time.
pub(super) fn roll_back(args: &StateArgs, wait: bool) -> Result<Outcome> {
    loop {
        let store = Store::open(&args.state)?;
        let Some(pending) = store.pending()? else { return Ok(Outcome::Clean) };
        let now = Timestamp::now();
        if enforce::roll_back_if_due(&Nft::default(), &store, now)? || !wait {
            return Ok(Outcome::Clean);
        }
        drop(store);
        let left_s = u64::try_from(pending.deadline.0.saturating_sub(now.0)).unwrap_or(0);
        std::thread::sleep(Duration::from_secs(left_s.clamp(1, 3600)));
    }
}
