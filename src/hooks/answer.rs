//! An answer that is given later: once, from any thread, within the time the broker waits.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::{Judgement, Verdict};

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
    /// The answer.
    pub said: Said,
}

/// An answer, of the kind that was asked for. [`Verdict::Later`] counts as [`Verdict::Unavailable`], and so with
/// [`Judgement`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// What a hook thinks of a question.
    Verdict(Verdict),
    /// What it makes of a client's part of an exchange of AUTH packets.
    Judgement(Judgement),
}

/// A kind of answer that can be given later.
pub trait Reply: Into<Said> {
    /// What is answered where nobody answers.
    const UNAVAILABLE: Self;
}

/// Takes answers to the loop, from any thread, and wakes it.
pub trait Post: Send + Sync {
    /// Takes one; it never waits for the loop.
    fn post(&self, answered: Answered);
}

/// The way to an answer later, for the hook that is being asked.
pub struct Later<'a, R = Verdict> {
    question: Question,
    post: &'a Arc<dyn Post>,
    is_taken: bool,
    kind: PhantomData<fn(R)>,
}

/// An answer that is owed. Dropped, it says [`Reply::UNAVAILABLE`], so that nobody waits in vain.
pub struct Answer<R: Reply = Verdict> {
    question: Question,
    /// `None` once it was given.
    post: Option<Arc<dyn Post>>,
    kind: PhantomData<fn(R)>,
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

impl<'a, R: Reply> Later<'a, R> {
    /// For whoever asks a hook.
    pub fn new(question: Question, post: &'a Arc<dyn Post>) -> Self {
        Self {
            question,
            post,
            is_taken: false,
            kind: PhantomData,
        }
    }

    /// What the answer can be given by; the hook returns [`Verdict::Later`], or
    /// [`Judgement::Later`], then. Of several, the first counts.
    pub fn answer(&mut self) -> Answer<R> {
        self.is_taken = true;
        Answer {
            question: self.question,
            post: Some(self.post.clone()),
            kind: PhantomData,
        }
    }

    /// Whether there is anything the answer can be given by.
    pub fn is_taken(&self) -> bool {
        self.is_taken
    }
}

impl<R: Reply> Answer<R> {
    /// Answers.
    pub fn give(mut self, reply: R) {
        self.send(reply);
    }

    fn send(&mut self, reply: R) {
        if let Some(post) = self.post.take() {
            let (question, said) = (self.question, reply.into());
            post.post(Answered { question, said });
        }
    }
}

impl<R: Reply> Drop for Answer<R> {
    fn drop(&mut self) {
        self.send(R::UNAVAILABLE);
    }
}

impl Reply for Verdict {
    const UNAVAILABLE: Self = Self::Unavailable;
}

impl Reply for Judgement {
    const UNAVAILABLE: Self = Self::Unavailable;
}

impl From<Verdict> for Said {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

impl From<Judgement> for Said {
    fn from(judgement: Judgement) -> Self {
        Self::Judgement(judgement)
    }
}

impl<R: Reply> fmt::Debug for Answer<R> {
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
        drop(Later::<Verdict>::new(Question::new(1, 8), &post).answer());
        drop(Later::<Judgement>::new(Question::new(1, 9), &post).answer());
        let found = std::mem::take(&mut *letters.0.lock().unwrap());
        let expected = [
            (7, Verdict::Allow.into()),
            (8, Verdict::Unavailable.into()),
            (9, Judgement::Unavailable.into()),
        ];
        let expected = expected.map(|(number, said)| Answered {
            question: Question::new(1, number),
            said,
        });
        assert_eq!(found, expected);
    }
}
