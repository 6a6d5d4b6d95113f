//! `lynceus replay`: sees a finding again in the evidence that was kept of it, with no VM.

use super::alerts;
use crate::attach::{open_regular, open_store};
use crate::cli::ReplayArgs;
use crate::output::{Outcome, Output};
use anyhow::{Context, Result, bail};
use lynceus_introspect::Partial;
use lynceus_profiles::Profile;
use lynceus_profiles::kernel_file::{self, Elsewhere, KernelImage};
use lynceus_profiles::module_file::ModuleFolder;
use lynceus_scanners::evidence::{Compared, Evidence, Replayed};
use lynceus_scanners::signatures::Rules;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

/// Exit code 1 where the finding shows again, 3 where it does not.
pub(super) fn run(output: Output, args: &ReplayArgs) -> Result<Outcome> {
    let named = || args.file.display().to_string();
    let evidence = Evidence::read(BufReader::new(open_regular(&args.file)?)).with_context(named)?;
    if evidence.is_of_match() {
        return replay_match(output, args, &evidence);
    }
    let (profile, image) = match &args.kernel {
        Some(path) => given(path, &evidence)?,
        None => kept(args, &evidence)?,
    };
    let about = &evidence.about;
    let compared = Compared { image, modules: modules(args, &profile, &evidence)? };
    let closing = format!(
        "replayed from {} pages of {}, seen by lynceus {} with {}",
        about.pages, about.vm, about.written_by, about.detector
    );
    tell(output, args, &evidence, evidence.replay(profile, &compared).with_context(named)?, &closing)
}

/// A signature's match takes its rules, and no kernel.
fn replay_match(output: Output, args: &ReplayArgs, evidence: &Evidence) -> Result<Outcome> {
    let named = || args.file.display().to_string();
    if args.rules.is_empty() {
        bail!("{}: a rule matched; give the rules with --rules", named());
    }
    let rules = Rules::load(&args.rules)?;
    let about = &evidence.about;
    let which = if evidence.is_by(&rules) { "the same rules" } else { "other rules than it was found with" };
    let closing = format!(
        "replayed from {} pages of {}, seen by lynceus {}; {which}",
        about.pages, about.vm, about.written_by
    );
    tell(output, args, evidence, evidence.replay_match(&rules).with_context(named)?, &closing)
}

fn tell(
    output: Output,
    args: &ReplayArgs,
    evidence: &Evidence,
    replayed: Replayed,
    closing: &str,
) -> Result<Outcome> {
    match replayed {
        Replayed::Same(finding) => {
            let found = Partial { items: vec![*finding], ..Partial::default() };
            alerts::tell(output, &evidence.about.vm, found, closing)
        }
        Replayed::Other(found) => {
            let file = args.file.display();
            eprintln!("lynceus: {file}: the finding does not show again; {} others do", found.len());
            Ok(Outcome::Incomplete)
        }
    }
}

/// The files of the kernel's modules, where they were compared with.
fn modules(args: &ReplayArgs, profile: &Profile, evidence: &Evidence) -> Result<Option<Arc<ModuleFolder>>> {
    if !evidence.about.modules {
        return Ok(None);
    }
    let release = &profile.identity.release;
    let needed =
        || format!("it was compared with the kernel's modules; give their folder with --modules: {release}");
    let folder = args.modules.as_ref().with_context(needed)?;
    let files = ModuleFolder::open(folder, release).with_context(|| folder.display().to_string())?;
    Ok(Some(Arc::new(files)))
}

type Needed = (Arc<Profile>, Option<Arc<KernelImage>>);

/// The profile, and the kernel's file where it was compared with, from the file that was given.
fn given(path: &Path, evidence: &Evidence) -> Result<Needed> {
    let named = || path.display().to_string();
    let kernel =
        kernel_file::load(BufReader::new(open_regular(path)?), Elsewhere::default()).with_context(named)?;
    if !evidence.is_from(&kernel.profile.identity) {
        bail!("{}: the evidence is of another kernel: {}", path.display(), evidence.about.banner);
    }
    let image = KernelImage::load(BufReader::new(open_regular(path)?)).with_context(named)?;
    Ok((Arc::new(kernel.profile), evidence.about.compared.then(|| Arc::new(image))))
}

/// The same from the profile store.
fn kept(args: &ReplayArgs, evidence: &Evidence) -> Result<Needed> {
    let store = open_store(&args.look)?;
    let headers = store.headers()?;
    let known = headers.iter().find(|header| evidence.is_from(&header.identity));
    let known = known.with_context(|| {
        format!(
            "no profile of this kernel is kept; give its vmlinuz with --kernel: {}",
            evidence.about.banner
        )
    })?;
    let profile = store.load(known)?;
    if !evidence.about.compared {
        return Ok((profile, None));
    }
    let file = store.kernel(&known.identity).with_context(|| {
        format!(
            "it was compared with the kernel's own file; give that with --kernel: {}",
            evidence.about.banner
        )
    })?;
    Ok((profile, Some(Arc::new(KernelImage::load(BufReader::new(file))?))))
}
