//! What the appliance remembers over restarts: responses, and the evidence of findings. The firewall's state and the spool of alerts are kept by theirs.
//!
//! *Does*: replaces files whole. *Never*: leaves half a file.

use super::respond::Responses;
use anyhow::{Context, Result, bail};
use lynceus_firewall::state::replace;
use std::fs;
use std::path::Path;

/// What is remembered may have so many bytes.
const MAX_BYTES: u64 = 16 << 20;

/// What was decided before.
pub(super) fn load(state: &Path) -> Result<Responses> {
    let path = state.join("responses.json");
    let shown = || path.display().to_string();
    match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Responses::default()),
        Err(error) => return Err(error).with_context(shown),
        Ok(about) if about.len() > MAX_BYTES => bail!("{}: larger than {MAX_BYTES} bytes", shown()),
        Ok(_) => {}
    }
    let text = fs::read(&path).with_context(shown)?;
    serde_json::from_slice(&text).with_context(|| format!("{}: move it away to begin anew", shown()))
}

/// Keeps what was decided.
pub(super) fn save(state: &Path, responses: &Responses) -> Result<()> {
    write(&state.join("responses.json"), &serde_json::to_vec(responses)?)
}

/// Keeps what shows a finding, in a file that is named by the alert.
pub(super) fn keep_evidence(state: &Path, alert: &str, text: &str) -> Result<()> {
    let folder = state.join("evidence");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    write(&folder.join(format!("{alert}.evidence")), text.as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::super::respond::Deed;
    use super::*;
    use lynceus_policy::Timestamp;

    #[test]
    fn what_was_decided_is_remembered_and_a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), Responses::default());
        let mut responses = Responses::default();
        responses.did("web-1", Deed::Isolate, "x", Timestamp(7));
        save(dir.path(), &responses).unwrap();
        assert_eq!(load(dir.path()).unwrap(), responses);
        fs::write(dir.path().join("responses.json"), "{\"waiting\":").unwrap();
        assert!(format!("{:#}", load(dir.path()).unwrap_err()).contains("responses.json: move it away"));
    }
}
