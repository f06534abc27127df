//! An answer that is given later: once, from any thread, within the time the broker waits.

use std::fmt;
use std::sync::Arc;

use super::Verdict;

/// One question, by a number that never comes back: an answer that is too late finds nothing and does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    about: u64,
    number: u64,
}

/// What was answered to which question, for the broker as an input.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    /// The question.
    pub question: Question,
    /// The answer; [`Verdict::Later`] counts as [`Verdict::Unavailable`].
    pub verdict: Verdict,
}

/// Takes answers to the loop, from any thread, and wakes it.
pub trait Post: Send + Sync {
    /// Takes one; it never waits for the loop.
    fn post(&self, answered: Answered);
}

/// The way to an answer later, for the hook that is being asked.
pub struct Later<'a> {
    question: Question,
    post: &'a Arc<dyn Post>,
    is_taken: bool,
}

/// An answer that is owed. Dropped, it says [`Verdict::Unavailable`], so that nobody waits in vain.
pub struct Answer {
    question: Question,
    /// `None` once it was given.
    post: Option<Arc<dyn Post>>,
}

impl Question {
    /// The `number`th question, about whatever `about` is to the one who asks.
    pub const fn new(about: u64, number: u64) -> Self {
        Self { about, number }
    }

    /// What it is about.
    pub const fn about(self) -> u64 {
        self.about
    }
}

impl<'a> Later<'a> {
    /// For whoever asks a hook.
    pub fn new(question: Question, post: &'a Arc<dyn Post>) -> Self {
        Self {
            question,
            post,
            is_taken: false,
        }
    }

    /// What the answer can be given by; the hook returns [`Verdict::Later`] then. Of several, the first counts.
    pub fn answer(&mut self) -> Answer {
        self.is_taken = true;
        Answer {
            question: self.question,
            post: Some(self.post.clone()),
        }
    }

    /// Whether there is anything the answer can be given by.
    pub fn is_taken(&self) -> bool {
        self.is_taken
    }
}

impl Answer {
    /// Answers.
    pub fn give(mut self, verdict: Verdict) {
        self.send(verdict);
    }

    fn send(&mut self, verdict: Verdict) {
        if let Some(post) = self.post.take() {
            let question = self.question;
            post.post(Answered { question, verdict });
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.send(Verdict::Unavailable);
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({:?})", self.question)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Letters(Mutex<Vec<Answered>>);

    impl Post for Letters {
        fn post(&self, answered: Answered) {
            self.0.lock().unwrap().push(answered);
        }
    }

    #[test]
    fn an_answer_is_given_once_and_one_that_is_dropped_says_so() {
        let letters = Arc::new(Letters::default());
        let post: Arc<dyn Post> = letters.clone();
        let mut later = Later::new(Question::new(1, 7), &post);
        assert!(!later.is_taken());
        let given = later.answer();
        assert!(later.is_taken());
        std::thread::spawn(|| given.give(Verdict::Allow)).join().unwrap();
        drop(Later::new(Question::new(1, 8), &post).answer());
        let found = std::mem::take(&mut *letters.0.lock().unwrap());
        let expected = [(7, Verdict::Allow), (8, Verdict::Unavailable)];
        let expected = expected.map(|(number, verdict)| Answered {
            question: Question::new(1, number),
            verdict,
        });
        assert_eq!(found, expected);
    }
}
