//! Threads that look names up, so that nobody else waits for a server.
//!
//! *Never*: answers a question twice, or takes longer for one than [`super::LOOK_UP`].

use super::Question;
use super::message::Answer;
use super::resolver::{Failure, Resolver};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many names are looked up at a time: with servers that are dead each takes all of its time. Those that failed the last time have
/// threads of their own, and hold nobody else up.
const THREADS: usize = 16;
const THREADS_AGAIN: usize = 8;
/// How long the host's files are taken for true.
const FILES: Duration = Duration::from_secs(5);

/// What came of a look-up.
pub type Found = (Question, Result<Answer, Failure>);

/// The way to the threads. They end when it is dropped.
pub struct Lookups {
    questions: Sender<Question>,
    again: Sender<Question>,
}

impl Lookups {
    /// Starts them; each answer is given to `tell`, which says whether anybody still wants one.
    pub fn start(tell: impl Fn(Found) -> bool + Clone + Send + 'static) -> std::io::Result<Lookups> {
        let files = Arc::new(Mutex::new(None));
        let [questions, again] = [THREADS, THREADS_AGAIN].map(|threads| {
            let (questions, asked) = channel();
            let asked = Arc::new(Mutex::new(asked));
            for _ in 0..threads {
                let (asked, files, tell) = (asked.clone(), files.clone(), tell.clone());
                let work = move || {
                    while let Some(question) = next(&asked) {
                        let found = resolver(&files).look_up(&question);
                        if !tell((question, found)) {
                            return;
                        }
                    }
                };
                std::thread::Builder::new().name("names".to_owned()).spawn(work)?;
            }
            Ok::<_, std::io::Error>(questions)
        });
        Ok(Lookups { questions: questions?, again: again? })
    }

    /// Asks; `again` what failed the last time. The answer comes when it comes.
    pub fn ask(&self, question: Question, again: bool) {
        let to = if again { &self.again } else { &self.questions };
        // The threads live as long as this.
        let _ = to.send(question);
    }

    /// Looks all of these up, for so long at most: what comes later is lost.
    pub fn all(questions: Vec<(Question, bool)>, wait: Duration) -> std::io::Result<Vec<Found>> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let (count, deadline) = (questions.len(), Instant::now() + wait);
        let (tell, told) = channel();
        let lookups = Lookups::start(move |found| tell.send(found).is_ok())?;
        questions.into_iter().for_each(|(question, again)| lookups.ask(question, again));
        let next = || told.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
        Ok(std::iter::from_fn(next).take(count).collect())
    }
}

fn next(asked: &Mutex<Receiver<Question>>) -> Option<Question> {
    asked.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// By the host's files, which are read again now and then.
fn resolver(files: &Mutex<Option<(Instant, Arc<Resolver>)>>) -> Arc<Resolver> {
    let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
    match &*files {
        Some((read, resolver)) if read.elapsed() < FILES => resolver.clone(),
        _ => {
            let resolver = Arc::new(Resolver::of_host());
            *files = Some((Instant::now(), resolver.clone()));
            resolver
        }
    }
}
