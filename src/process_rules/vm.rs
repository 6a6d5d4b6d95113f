//! One VM: its memory, and the connections that are asked about.
//!
//! *Does*: attaches in the background, and again after what is known of the guest has led nowhere: it may have been started anew.
//! *Never*: makes a connection wait for an attach: until the memory is there, it is not known who is behind any of them.

use super::policies::Policies;
use super::question::Question;
use super::{News, Tell};
use crate::daemon::Looker;
use crate::nflog::Queues;
use anyhow::Result;
use lynceus_firewall::flows::FlowEvent;
use lynceus_firewall::nft::Nft;
use lynceus_firewall::queue::Waiting;
use lynceus_firewall::{Moment, Who, judge};
use lynceus_policy::{Timestamp, Verdict};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, channel, sync_channel};
use std::time::{Duration, Instant};

/// Connections that wait for their answer; one more is not asked about, and comes again.
const MAX_WAITING: usize = 64;
/// Between two tries to attach.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two looks whether an attach has come to its end.
const TICK: Duration = Duration::from_millis(200);

/// A packet that waits for its verdict. Whatever happens it gets one.
pub(super) struct Held {
    pub(super) queues: Arc<Queues>,
    pub(super) waiting: Waiting,
    pub(super) is_answered: bool,
}

/// A connection that is asked about.
pub(super) struct Ask {
    pub(super) flow: FlowEvent,
    /// Its packet, where the kernel holds it.
    pub(super) held: Option<Held>,
}

/// A VM that is looked into until this is dropped.
pub(super) struct Vm {
    asks: SyncSender<Ask>,
}

impl Vm {
    pub(super) fn start(name: String, policies: Arc<Policies>, tell: Tell) -> Vm {
        let (asks, asked) = sync_channel(MAX_WAITING);
        let (guest, coming, tried) = (None, None, None);
        let (nft, failure) = (Nft::default(), String::new());
        let worker = Worker { name, policies, tell, nft, guest, coming, tried, failure, is_lost: true };
        std::thread::spawn(move || worker.run(&asked));
        Vm { asks }
    }

    pub(super) fn ask(&self, ask: Ask) {
        // Where there is no room its sender sends it again.
        let _ = self.asks.try_send(ask);
    }
}

impl Held {
    fn answer(mut self, generation: u32, verdict: Verdict) -> Result<()> {
        self.is_answered = true;
        self.queues.answer(&self.waiting, generation, verdict)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_answered {
            // There is nobody left to tell that the kernel will hold it for ever.
            let _ = self.queues.answer(&self.waiting, 0, Verdict::Deny);
        }
    }
}

struct Worker {
    name: String,
    policies: Arc<Policies>,
    tell: Tell,
    nft: Nft,
    guest: Option<Looker>,
    /// An attach that goes on in the background.
    coming: Option<Receiver<Result<(Looker, String)>>>,
    tried: Option<Instant>,
    /// Told already.
    failure: String,
    /// There is no guest, or what is known of it may be out of date.
    is_lost: bool,
}

impl Worker {
    fn run(mut self, asked: &Receiver<Ask>) {
        loop {
            self.attach();
            match asked.recv_timeout(TICK) {
                Ok(ask) => self.answer(ask),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Takes what an attach has come to, and begins one where it is time.
    fn attach(&mut self) {
        match self.coming.as_ref().map(Receiver::try_recv) {
            Some(Ok(Ok((guest, release)))) => {
                if self.guest.is_none() {
                    self.news(format!("looked into: {release}"));
                }
                (self.guest, self.coming, self.is_lost) = (Some(guest), None, false);
                self.failure.clear();
            }
            Some(Ok(Err(error))) => {
                let failure = format!("cannot be looked into: {error:#}");
                if self.failure != failure {
                    self.news(failure.clone());
                }
                (self.guest, self.coming, self.failure) = (None, None, failure);
            }
            Some(Err(TryRecvError::Disconnected)) => self.coming = None,
            Some(Err(TryRecvError::Empty)) => return,
            None => {}
        }
        if self.is_lost && self.tried.is_none_or(|tried| tried.elapsed() > AGAIN) {
            let (done, coming) = channel();
            let name = self.name.clone();
            std::thread::spawn(move || {
                // Nobody waits for it any more when the VM has no rules about processes now.
                let _ = done.send(Looker::start(&name));
            });
            (self.coming, self.tried) = (Some(coming), Some(Instant::now()));
        }
    }

    fn answer(&mut self, ask: Ask) {
        let Ask { mut flow, held } = ask;
        let started = Instant::now();
        let Some(state) = self.policies.now() else { return };
        let Some(policy) = state.policy(&self.name) else { return };
        let Some(question) = Question::of(&flow, &state, &self.name) else { return };
        let Some(who) = self.who(&question) else { return };
        self.is_lost |= who == Who::Unknown;
        // The kernel has come past the rules with a rate that stand before; what is behind does not count for it.
        let rated = policy.rules().filter(|rule| rule.rate.is_some());
        let exhausted = rated.map(|rule| rule.id.clone()).collect();
        let moment = Moment { at: Timestamp::now(), names: state.names.clone(), exhausted, who };
        let decision = judge(policy, question.direction(), &question.flow(), &moment);
        flow.looked_us = Some(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        let verdict = decision.verdict;
        let answered = match held {
            Some(held) => held.answer(state.generation, verdict),
            None => question.answer(&self.nft, &state, verdict).map_err(Into::into),
        };
        question.tell(&mut flow, &decision, moment.who);
        (self.tell)(News::Flow(Box::new(flow)));
        if let Err(error) = answered {
            self.news(format!("a verdict did not get to the kernel: {error:#}"));
        }
    }

    /// Who is behind a connection. None where the process that is asked has died or does not answer: it is ended, the sender sends again, and
    /// is asked about then.
    fn who(&mut self, question: &Question) -> Option<Who> {
        let Some(guest) = &mut self.guest else { return Some(Who::Unknown) };
        let asked = guest.who(&question.in_guest());
        if let Err(error) = &asked {
            (self.guest, self.is_lost) = (None, true);
            self.news(format!("cannot be asked: {error:#}"));
        }
        asked.ok()
    }

    fn news(&self, text: String) {
        (self.tell)(News::Guest { vm: self.name.clone(), text });
    }
}
