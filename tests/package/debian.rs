//! The package on a Debian with its own systemd: installed, started, watched over, upgraded, removed. The rules stay in force all the time.

use crate::host::{CONFIG, Host, POLICY};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

#[test]
#[ignore = "an emulated machine takes six minutes for it: cargo test --test package -- --ignored"]
fn the_service_on_debian() -> Result<()> {
    let host = Host::boot()?;
    it_is_installed_and_runs(&host)?;
    crate::groups::workers_have_groups(&host)?;
    it_reloads(&host)?;
    it_is_killed(&host)?;
    it_is_upgraded(&host)?;
    it_goes(&host)
}

fn it_is_installed_and_runs(host: &Host) -> Result<()> {
    host.sh("dpkg -i /luggage/0.1.0.deb 2>&1")?;
    // It says that it is ready; systemd takes it for nothing else before.
    ensure!(
        host.show("Type")? == "notify" && host.show("ActiveState")? == "active",
        "{}",
        host.sh("systemctl status lynceus || true")?
    );
    ensure!(host.show("UnitFileState")? == "enabled");
    host.write("/etc/lynceus/lynceus.toml", CONFIG)?;
    host.write("/etc/lynceus/policy/policy.toml", POLICY)?;
    host.sh("cp -r /luggage/profiles /var/lib/lynceus/; lynceus config check && lynceus policy lint && systemctl restart lynceus")?;
    let row = host.watched()?;
    ensure!(
        row["vm"] == "victim" && row["kernel"].is_string() && row["missing_layers"] == serde_json::json!([]),
        "{row:#}"
    );
    let status = host.status()?;
    ensure!(status["guards"] == true && status["no_groups"].is_null(), "{status:#}");
    let told = host.sh("lynceus status 2>&1 || true")?;
    ensure!(told.contains("victim") && told.contains("; guards\n"), "{told}");
    host.sh("nohup bash /run/probe > /dev/null 2>&1 &")?;
    host.guards()?;
    let found = host.until("the alerts", || {
        let all = host.alerts("detection")?;
        Ok((!all.is_empty()).then_some(all))
    })?;
    ensure!(found.iter().all(|alert| alert["vm"] == "victim" && alert["detector"].is_string()), "{found:#?}");
    Ok(())
}

/// By systemd, and by a signal; wrong configurations change nothing.
fn it_reloads(host: &Host) -> Result<()> {
    let (pid, rules) = (host.show("MainPID")?, host.rules()?);
    host.sh("systemctl reload lynceus")?;
    host.sh("echo 'rulez = 1' >> /etc/lynceus/lynceus.toml")?;
    let refused = host.sh("systemctl reload lynceus 2>&1 || echo REFUSED")?;
    ensure!(refused.contains("REFUSED"), "{refused}");
    let failed = || -> Result<Option<Value>> {
        let health = host.alerts("health")?;
        Ok(health
            .into_iter()
            .rfind(|alert| alert["component"] == "reload")
            .map(|alert| alert["state"].clone()))
    };
    host.until("the alert", || Ok((failed()? == Some("failed".into())).then_some(())))?;
    host.sh("sed -i '/rulez/d' /etc/lynceus/lynceus.toml; kill -HUP $(systemctl show -P MainPID lynceus)")?;
    host.until("it to work again", || Ok((failed()? == Some("recovered".into())).then_some(())))?;
    ensure!(host.show("MainPID")? == pid && host.rules()? == rules, "{}", host.rules()?);
    host.guards()
}

/// Whatever ends it, systemd starts it again, and the rules are the same that they were, not others like them.
fn it_is_killed(host: &Host) -> Result<()> {
    let (pid, rules) = (host.show("MainPID")?, host.rules()?);
    let worker = host.watched()?["worker_pid"].as_u64().context("no worker")?;
    host.sh(&format!("kill -KILL {pid}"))?;
    host.until("the next one", || {
        Ok((host.show("ActiveState")? == "active"
            && ![pid.as_str(), "0"].contains(&host.show("MainPID")?.as_str()))
        .then_some(()))
    })?;
    ensure!(host.show("NRestarts")? == "1");
    ensure!(host.sh(&format!("test -e /proc/{worker} && echo left || true"))?.is_empty());
    host.watched()?;
    ensure!(crate::groups::count(host)? == 1, "a group of a worker that has ended is left");
    ensure!(host.rules()? == rules, "{}", host.rules()?);
    host.guards()
}

fn it_is_upgraded(host: &Host) -> Result<()> {
    let (pid, rules) = (host.show("MainPID")?, host.rules()?);
    host.sh("dpkg -i /luggage/0.2.0.deb 2>&1")?;
    ensure!(host.sh("dpkg-query -f '${Version}' -W lynceus")? == "0.2.0");
    ensure!(host.show("ActiveState")? == "active" && host.show("MainPID")? != pid);
    ensure!(host.sh("cat /etc/lynceus/lynceus.toml")? == CONFIG, "an admin's configuration was changed");
    host.watched()?;
    ensure!(host.rules()? == rules, "{}", host.rules()?);
    host.guards()
}

/// Stopped and removed it leaves the rules in force, purged it leaves nothing.
fn it_goes(host: &Host) -> Result<()> {
    let rules = host.rules()?;
    host.sh("systemctl stop lynceus")?;
    ensure!(
        host.show("Result")? == "success" && host.show("ActiveState")? == "inactive",
        "{}",
        host.sh("systemctl status lynceus || true")?
    );
    ensure!(host.rules()? == rules);
    host.guards()?;
    host.sh("systemctl start lynceus; dpkg --remove lynceus 2>&1")?;
    ensure!(host.sh("pidof lynceus || true")?.is_empty());
    ensure!(host.rules()? == rules);
    host.guards()?;
    host.sh("dpkg --purge lynceus 2>&1")?;
    let left = host.sh("nft list tables; find / /run -xdev -iname '*lynceus*' -not -path '/proc/*' -not -path '/luggage/*'; systemctl list-unit-files | grep -w lynceus.service || true")?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}
