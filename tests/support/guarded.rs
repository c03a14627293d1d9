//! A child process that does not outlive the test, however the test ends.

use std::{
    io::{self, Write},
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Kills its child when it is dropped; a watchdog does so when the test process itself is killed.
///
/// The watchdog is a shell that holds the read end of a pipe: the kernel closes the other end when
/// the test process dies, by whatever signal. Told `done`, it leaves without killing, so that a
/// process id that is in use again is safe.
#[derive(Debug)]
pub(super) struct Guarded {
    child: Child,
    watchdog: Child,
}

const WATCHDOG: &str = r#"
trap '' HUP INT QUIT TERM
read -r word || { kill -9 "$1"; [ -z "$2" ] || rm -rf -- "$2"; }
"#;

impl Guarded {
    /// Starts the command. The watchdog removes `dir` too, as nobody else is left to do it.
    pub(super) fn spawn(command: &mut Command, dir: Option<&Path>) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", &child.id().to_string()])
            .arg(dir.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match watchdog {
            Ok(watchdog) => Ok(Self { child, watchdog }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child's standard output, once, if it was piped.
    pub(super) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// How the child ended, if it has.
    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be waited for")
    }

    /// Waits for the child's end, and panics if it does not come in time.
    pub(super) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(Instant::now() < deadline, "process {} lives after {limit:?}", self.id());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal; a child that has ended is an error of the test.
    pub(super) fn signal(&mut self, signal: Signal) {
        assert_eq!(self.exited(), None, "process {} has ended", self.id());
        kill_process(Pid::from_child(&self.child), signal).expect("the signal can be sent");
    }

    /// Stops the child as SIGSTOP does, and returns when it stands still.
    pub(super) fn pause(&mut self) {
        self.signal(Signal::STOP);
        let pid = Pid::from_child(&self.child);
        let deadline = Instant::now() + Duration::from_secs(5);
        let stopped = || {
            waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG)
                .expect("the child can be waited for")
        };
        while stopped().is_none() {
            assert!(Instant::now() < deadline, "process {} does not stop", self.id());
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Kills the child, stopped or not, and returns when it is gone.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut stdin) = self.watchdog.stdin.take() {
            let _ = stdin.write_all(b"done\n");
        }
        let _ = self.watchdog.wait();
    }
}
