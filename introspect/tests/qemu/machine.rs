//! A QEMU of a test's own, ended with it.

use lynceus_introspect::backend::qemu::Qemu;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Machine {
    dir: tempfile::TempDir,
    args: Vec<String>,
    monitors: bool,
    child: Option<Child>,
}

impl Machine {
    /// A machine with two QMP sockets: one for the code under test, one for the test.
    pub(crate) fn new() -> Machine {
        let mut machine = Machine::without_monitor();
        machine.monitors = true;
        machine.args(&["-qmp", &format!("unix:{},server=on,wait=off", machine.socket().display())]);
        // The second is handed over as a descriptor, as libvirt does it: no command line tells of it.
        machine.args(&[
            "-chardev",
            "socket,id=second,fd=0,server=on,wait=off",
            "-mon",
            "chardev=second,mode=control",
        ]);
        machine
    }

    pub(crate) fn without_monitor() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let args = ["-accel", "tcg", "-display", "none", "-nodefaults"].map(str::to_owned).to_vec();
        Machine { dir, args, monitors: false, child: None }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir().join("qmp")
    }

    fn second_socket(&self) -> PathBuf {
        self.dir().join("qmp2")
    }

    pub(crate) fn arg(&mut self, arg: &str) {
        self.args.push(arg.to_owned());
    }

    pub(crate) fn args(&mut self, args: &[&str]) {
        args.iter().for_each(|arg| self.arg(arg));
    }

    pub(crate) fn start(&mut self) {
        self.spawn(Command::new("qemu-system-x86_64"));
    }

    /// In mount and process namespaces of its own, with its own folder in place of the test's. False without the right to.
    pub(crate) fn start_in_namespaces(&mut self) -> bool {
        let may = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "true"])
            .stderr(Stdio::null())
            .status();
        if !may.is_ok_and(|status| status.success()) {
            return false;
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]);
        command.arg("mount -t tmpfs none \"$0\" && exec qemu-system-x86_64 \"$@\"").arg(self.dir());
        self.spawn(command);
        true
    }

    fn spawn(&mut self, mut command: Command) {
        let stdin = match self.monitors {
            true => OwnedFd::from(UnixListener::bind(self.second_socket()).unwrap()).into(),
            false => Stdio::null(),
        };
        let child = command.args(&self.args).stdin(stdin).spawn();
        self.child = Some(child.expect("these tests need QEMU: install the package qemu-system-x86"));
        if self.monitors {
            self.second_monitor();
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn monitor(&self) -> Monitor {
        Monitor::connect(&self.socket())
    }

    pub(crate) fn second_monitor(&self) -> Monitor {
        Monitor::connect(&self.second_socket())
    }

    /// Until the firmware has written its data area and halts for want of a disk.
    pub(crate) fn wait_for_firmware(&self) {
        let mut monitor = self.second_monitor();
        eventually("the firmware to run", || {
            let text = monitor.execute("human-monitor-command", json!({ "command-line": "xp/1hx 0x413" }));
            text.as_str().is_some_and(|text| text.contains("0x027f"))
        });
        std::thread::sleep(Duration::from_millis(500));
    }

    /// For a machine that no socket says is up.
    pub(crate) fn open_eventually(&self) -> Qemu {
        let mut vm = None;
        eventually("QEMU to start", || {
            vm = Qemu::open(self.pid()).ok();
            vm.is_some()
        });
        vm.unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(path: &Path) -> Monitor {
        let mut stream = None;
        eventually("the QMP socket", || {
            stream = UnixStream::connect(path).ok();
            stream.is_some()
        });
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut monitor = Monitor { stream: BufReader::new(stream) };
        assert!(monitor.line().get("QMP").is_some());
        monitor.execute("qmp_capabilities", json!({}));
        monitor
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.stream.get_mut().write_all(line.as_bytes()).unwrap();
        loop {
            let mut answer = self.line();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(value) = answer.get_mut("return") {
                return value.take();
            }
        }
    }

    pub(crate) fn state(&mut self) -> String {
        self.execute("query-status", json!({}))["status"].as_str().unwrap().to_owned()
    }

    pub(crate) fn await_state(&mut self, state: &str) {
        eventually(state, || self.state() == state);
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
