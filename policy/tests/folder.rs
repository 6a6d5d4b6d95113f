//! Policy folders from outside: what is wrong is said with file, line and column; what is right means what it says.

use lynceus_policy::{Action, Direction, Folder, LoadError, Policy, Tier, Verdict, VmPolicy};
use std::path::Path;

fn policy(files: &[(&str, &str)]) -> Result<Policy, LoadError> {
    let texts = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Policy::of(&Folder::parse(texts)?)
}

/// Two web servers and a database.
const INVENTORY: &str = r#"
[vm.web-1]
labels = { role = "web", env = "prod" }
[[vm.web-1.interface]]
port = "vif1.0"
mac = "52:54:00:00:00:01"
addresses = ["10.0.0.1", "fd00::1"]
[vm.web-2]
labels = { role = "web", env = "test" }
[[vm.web-2.interface]]
mac = "52:54:00:00:00:02"
addresses = ["10.0.0.2"]
[vm.db-1]
labels = { role = "db", env = "prod" }
[[vm.db-1.interface]]
mac = "52:54:00:00:00:03"
addresses = ["10.0.0.3"]
"#;

fn with_inventory(text: &str) -> Policy {
    policy(&[("inventory.toml", INVENTORY), ("policy.toml", text)]).unwrap_or_else(|error| panic!("{error}"))
}

/// What is wrong with a file.
fn wrong(text: &str) -> String {
    policy(&[("inventory.toml", INVENTORY), ("p.toml", text)]).expect_err("an error").to_string()
}

fn ids(vm: &VmPolicy, direction: Direction) -> Vec<&str> {
    vm.chain(direction).rules().map(|rule| rule.id.as_str()).collect()
}

#[test]
fn errors_name_file_line_column_and_what_was_meant() {
    for (text, said) in [
        ("[policy.a]\nselct = 'all()'", "p.toml:2:1: unknown field `selct`"),
        ("[policy.a]\nselct = 'all()'", "did you mean `select`?"),
        ("[policy.a]\nmode = 'audti'", "p.toml:2:8: unknown variant `audti`"),
        ("[policy.a]\nmode = 'audti'", "did you mean `audit`?"),
        ("[policy.a\n", "p.toml:1:10"),
        ("[policy.a]\nselect = 'role = \"web\"'", "p.toml:2:10: `role = \"web\"` is no selector"),
        ("[[policy.a.rule]]\ndirection = 'in'", "p.toml:1:1: missing field `action`"),
        (
            "[[policy.a.rule]]\ndirection = 'in'\naction = 'allow'\nservices = ['tcp/80', 'tpc/81']",
            "p.toml:4:23: `tpc/81` is no service: unknown protocol `tpc`; did you mean `tcp`?",
        ),
        (
            "[[policy.a.rule]]\ndirection='in'\naction='allow'\npeer = { addresses = ['10.0.0.1/8'] }",
            "the network is 10.0.0.0/8",
        ),
        (
            "[[policy.a.rule]]\ndirection='in'\naction='allow'\npeer = { groups = ['wbe'] }\n[group.web]\nselect='all()'",
            "p.toml:4:20: there is no group called `wbe`; did you mean `web`?",
        ),
        (
            "[[policy.a.rule]]\ndirection='in'\naction='allow'\npeer = { addresses = ['@lan'] }",
            "there is no address set called `lan`",
        ),
        ("[[policy.a.rule]]\ndirection='in'\naction='allow'\npeer = {}", "names nobody"),
        ("[[policy.a.rule]]\ndirection='in'\naction='allow'\nservices = []", "`services` is empty"),
        ("[vm.web-1]", "p.toml:1:1: VM `web-1` is there already, at inventory.toml:2:1"),
        (
            "[vm.x]\n[[vm.x.interface]]\nmac='52:54:00:00:00:09'\naddresses=['10.0.0.3']",
            "address 10.0.0.3 is that of VM `db-1` already",
        ),
        ("[vm.x]\n[[vm.x.interface]]\nmac='53:54:00:00:00:09'\naddresses=[]", "a group's address"),
        ("[vm.\"a b\"]", "is no name"),
        ("[policy.a]\nextends = ['b']\n[policy.b]\nextends = ['a']", "policy `a` includes itself: a → b → a"),
        ("[addresses.a]\nmembers = ['@a']", "address set `a` includes itself: a → a"),
        ("[policy.a]\nuse = [{ template = 'x' }]", "there is no template called `x`"),
        (
            "[template.x]\nparameters=['port']\n[policy.a]\nuse = [{ template = 'x' }]",
            "parameter `port` is missing",
        ),
        ("[[test]]\nfrom='web-3'\nto='db-1'\nservice='tcp/1'\nexpect='allow'", "did you mean `web-1`?"),
        ("[policy.a.look]\nevery = '15 lightyears'", "p.toml:2:9: `15 lightyears` is no length of time"),
    ] {
        let error = wrong(text);
        assert!(error.contains(said), "{text}\n--\n{error}\n-- lacks\n{said}");
    }
}

#[test]
fn every_error_is_told_at_once() {
    let text = "[policy.a]\nselect = 'x ='\n[[policy.a.rule]]\ndirection='in'\naction='deny'\nservices=['x']";
    assert_eq!(wrong(text).lines().count(), 2);
}

#[test]
fn ten_thousand_groups_that_extend_in_a_ring_are_one_error() {
    let group = |n: usize| format!("[group.g{n}]\nextends = ['g{}']\n", (n + 1) % 10_000);
    let text: String = (0..10_000).map(group).collect();
    let error = wrong(&text);
    assert!(error.contains("includes itself") && error.contains("9994 more"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_file_of_a_hundred_megabytes_is_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.toml");
    std::fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let error = Policy::load(folder.path()).unwrap_err();
    assert!(matches!(error, LoadError::TooLarge { bytes: 104_857_600, .. }), "{error}");
}

#[test]
fn an_empty_folder_is_no_policy() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("README"), "no policy").unwrap();
    assert!(matches!(Policy::load(folder.path()), Err(LoadError::Empty { .. })));
    assert!(matches!(Policy::load(Path::new("/nonexistent")), Err(LoadError::Io { .. })));
}

#[test]
fn files_are_merged_by_name_whatever_order_the_disk_has() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("z")).unwrap();
    std::fs::write(folder.path().join("z/policy.toml"), "[policy.a]\nselect = 'role == \"web\"'").unwrap();
    std::fs::write(folder.path().join("a.toml"), INVENTORY).unwrap();
    std::fs::write(folder.path().join(".hidden.toml"), "garbage").unwrap();
    let policy = Policy::load(folder.path()).unwrap();
    assert_eq!((policy.files, policy.vms.len()), (2, 3));
    assert_eq!(policy.vms["web-1"].policies, ["a"]);
}

#[test]
fn tiers_come_in_order_and_the_most_specific_default_holds() {
    let policy = with_inventory(
        r#"
[policy.z-platform]
tier = "platform"
select = 'all()'
default = { in = "deny", out = "deny" }
[[policy.z-platform.rule]]
name = "no-smtp"
direction = "out"
action = "deny"
services = ["tcp/25"]

[policy.late]
order = 200
select = 'role == "web"'
[[policy.late.rule]]
direction = "out"
action = "allow"

[policy.web]
select = 'role == "web"'
default = { out = "allow" }
[[policy.web.rule]]
direction = "out"
action = "pass"
"#,
    );
    let web = &policy.vms["web-1"];
    assert_eq!(ids(web, Direction::Out), ["z-platform/no-smtp", "web/1", "late/1"]);
    assert_eq!(web.outbound.tiers[0].tier, Tier::Platform);
    assert_eq!(web.outbound.default.verdict, Verdict::Allow);
    assert_eq!(web.inbound.default.policy.as_deref(), Some("z-platform"));
    assert_eq!(policy.vms["db-1"].outbound.default.verdict, Verdict::Deny);
}

#[test]
fn groups_are_their_vms_addresses_of_both_families() {
    let policy = with_inventory(
        r#"
[group.web]
select = 'role == "web"'
[group.all]
extends = ["web"]
vms = ["db-1"]
[policy.db]
vms = ["db-1"]
[[policy.db.rule]]
direction = "in"
action = "allow"
peer = { groups = ["web"], except = ["10.0.0.2"] }
[[policy.db.rule]]
direction = "in"
action = "deny"
peer = { groups = ["all"] }
"#,
    );
    let rules: Vec<_> = policy.vms["db-1"].inbound.rules().collect();
    let told = |n: usize| rules[n].peers.ranges().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told(0), ["10.0.0.1", "fd00::1"]);
    assert_eq!(told(1), ["10.0.0.1-10.0.0.3", "fd00::1"]);
}

#[test]
fn a_policy_that_extends_has_its_own_rules_first() {
    let policy = with_inventory(
        r#"
[policy.base]
default = { in = "reject" }
mode = "audit"
[[policy.base.rule]]
name = "ssh"
direction = "in"
action = "allow"
services = ["tcp/22"]
[policy.left]
extends = ["base"]
[policy.web]
tier = "vm"
select = 'role == "web"'
extends = ["left", "base"]
[[policy.web.rule]]
direction = "in"
action = "deny"
"#,
    );
    let web = &policy.vms["web-1"];
    assert_eq!(ids(web, Direction::In), ["web/1", "web/base/ssh"]);
    assert!(web.inbound.rules().all(|rule| rule.audit && rule.tier == Tier::Vm));
    assert_eq!(
        (web.inbound.default.verdict, web.inbound.default.effective()),
        (Verdict::Reject, Verdict::Allow)
    );
}

#[test]
fn templates_are_filled_with_parameters() {
    let policy = with_inventory(
        r#"
[template.server]
parameters = ["port", "from"]
[[template.server.rule]]
name = "serve"
direction = "in"
action = "allow"
peer = { groups = ["${from}"] }
services = ["tcp/${port}", "udp/${port}"]
[group.web]
select = 'role == "web"'
[group.prod]
select = 'env == "prod"'
[policy.db]
vms = ["db-1"]
use = [{ template = "server", with = { port = 5432, from = ["web", "prod"] } }]
"#,
    );
    let rule = policy.vms["db-1"].inbound.rules().next().unwrap();
    assert_eq!(rule.id, "db/server.1/serve");
    assert_eq!(rule.services.ranges().len(), 2);
    assert_eq!(rule.peers.ranges().len(), 2);
}

#[test]
fn a_policy_that_is_off_has_no_rules_and_says_so() {
    let policy = with_inventory(
        "[policy.a]\nmode='off'\nselect='all()'\n[[policy.a.rule]]\ndirection='in'\naction='allow'",
    );
    assert_eq!(policy.vms["db-1"].rules().count(), 0);
    assert!(policy.lints.iter().any(|lint| lint.code == "off"));
}

#[test]
fn what_selects_nothing_is_told() {
    let policy = with_inventory(
        "[group.x]\nselect = 'role == \"mail\"'\n[policy.y]\nselect = 'rol == \"web\"'\n[services.s]\nmembers=['tcp/1']",
    );
    let codes: Vec<&str> = policy.lints.iter().map(|lint| lint.code).collect();
    for code in ["empty-selector", "empty-group", "unknown-label", "unused", "no-policy"] {
        assert!(codes.contains(&code), "{code} not in {codes:?}");
    }
}

#[test]
fn isolation_is_the_isolate_policy_and_nothing_else() {
    let text = r#"
[policy.all]
select = "all()"
default = { in = "allow", out = "allow" }
[policy.isolate]
[[policy.isolate.rule]]
name = "forensics"
direction = "in"
action = "allow"
peer = { addresses = ["10.9.0.1"] }
services = ["tcp/22"]
"#;
    let policy = with_inventory(text);
    let isolated = policy.isolated(&policy.vms["web-1"]);
    assert_eq!(ids(&isolated, Direction::In), ["isolate/forensics"]);
    assert_eq!(ids(&isolated, Direction::Out), Vec::<&str>::new());
    assert_eq!(isolated.inbound.default.effective(), Verdict::Deny);
    assert_eq!(isolated.inbound.rules().next().unwrap().action, Action::Allow);
}

#[test]
fn a_resolved_policy_reads_back_from_json() {
    let policy = with_inventory(
        r#"
[policy.a]
select = "all()"
expires = 2030-01-01T00:00:00Z
look = { every = "15m", scopes = ["kernel"], detectors = { hidden_task = "critical" }, respond = { critical = "isolate" } }
[[policy.a.rule]]
direction = "out"
action = "allow"
services = ["tcp/1-99", "icmp/echo-request", "gre"]
peer = { names = ["Deb.Debian.org."], addresses = ["10.0.0.0/8", "fd00::5-fd00::9"] }
hours = ["mon-fri 08:00-18:00"]
rate = "10/second burst 20"
process = { exe = "/usr/bin/apt", uid = 0 }
log = true
"#,
    );
    let vm = &policy.vms["web-1"];
    let text = serde_json::to_string(vm).unwrap();
    let again: VmPolicy = serde_json::from_str(&text).unwrap();
    assert_eq!(&again, vm);
    assert_eq!(vm.look.every_s, Some(900));
    assert!(text.contains(r#""names":["deb.debian.org"]"#), "{text}");
}

#[test]
fn the_schema_knows_every_key_and_no_other() {
    let schema = lynceus_policy::syntax::schema();
    assert_eq!(schema["additionalProperties"], false);
    for key in ["vm", "group", "addresses", "services", "template", "policy", "test", "site"] {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
}
