//! `lynceus policy`: policy files, checked, tested, explained and applied.

mod apply;
mod explain;
mod lint;
mod plan;
mod show;
mod test;

pub(crate) use apply::enforce_now;

use crate::cli::PolicyCommand;
use crate::output::{Outcome, Output, escape};
use anyhow::{Context, Result};
use lynceus_firewall::{By, Decision};
use lynceus_policy::bundle::Bundle;
use lynceus_policy::{LoadError, Policy};
use serde::Serialize;
use std::path::Path;

/// Does what the command says.
pub(super) fn run(output: Output, command: PolicyCommand) -> Result<Outcome> {
    match command {
        PolicyCommand::Lint(folder) => lint::run(output, &folder),
        PolicyCommand::Test(folder) => test::run(output, &folder),
        PolicyCommand::Explain(args) => explain::run(output, &args),
        PolicyCommand::Show { vm, folder } => show::run(output, &vm, &folder),
        PolicyCommand::Plan(args) => plan::run(output, &args),
        PolicyCommand::Apply(args) => apply::run(&args),
        PolicyCommand::Confirm(state) => apply::confirm(&state),
        PolicyCommand::Rollback { wait, state } => apply::roll_back(&state, wait),
        PolicyCommand::Bundle { out, serial, folder } => {
            let bundle = Bundle::pack(&folder.policy, serial)?;
            std::fs::write(&out, bundle.to_bytes()?).with_context(|| out.display().to_string())?;
            println!("{}: serial {serial}; sign it with: minisign -S -m {}", out.display(), out.display());
            Ok(Outcome::Clean)
        }
        PolicyCommand::Schema => {
            output.json_line(&lynceus_policy::syntax::schema())?;
            Ok(Outcome::Clean)
        }
    }
}

/// Loads the policy. With `--json` each error is a line of its own on standard error, for editors and pipelines.
fn load(output: Output, folder: &Path) -> Result<Policy> {
    #[derive(Serialize)]
    struct ErrorLine<'a> {
        file: &'a str,
        line: u32,
        column: u32,
        error: String,
    }
    let loaded = if is_bundle(folder) {
        Bundle::read(folder)?.0.folder().and_then(|folder| Policy::of(&folder))
    } else {
        Policy::load(folder)
    };
    if let (Err(LoadError::Policy(errors)), true) = (&loaded, output.is_json()) {
        for error in &errors.errors {
            let (place, text) = (&error.place, error.kind.to_string());
            let line = ErrorLine { file: &place.file, line: place.line, column: place.column, error: text };
            eprintln!("{}", serde_json::to_string(&line)?);
        }
    }
    Ok(loaded?)
}

/// A bundle is known by its name: what its content says is not to be believed yet.
fn is_bundle(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bundle")
}

/// Who decided, and where that stands.
fn decided_by(decision: &Decision) -> String {
    match &decision.by {
        By::Rule(rule) => format!("rule {} ({})", rule.id, rule.place),
        By::Default(Some(policy)) => format!("default of policy {policy}"),
        By::Default(None) => "no policy has a default: denied".to_owned(),
    }
}

/// Says how many there were, on standard error.
fn summary(output: Output, noun: &str, count: usize, text: &str) -> Result<()> {
    #[derive(Serialize)]
    struct Summary<'a> {
        listed: &'a str,
        count: usize,
        complete: bool,
    }
    if output.is_json() {
        eprintln!("{}", serde_json::to_string(&Summary { listed: noun, count, complete: true })?);
    } else {
        eprintln!("{}", escape(text));
    }
    Ok(())
}
