//! Answers that hooks give later, from any thread, on their way into the loop.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use super::state::{Hold, now};
use crate::broker::Input;
use crate::hooks::{Answered, Post};

/// Where answers wait until the loop takes them. A link has two questions open at most, one
/// about a packet and one about an exchange of AUTH packets, which bounds them.
#[derive(Default)]
pub(super) struct Letterbox {
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    answers: Vec<Answered>,
    /// Woken by the next answer; `None` also where nobody takes them any more.
    sleeper: Option<Waker>,
}

impl Letterbox {
    fn lock(&self) -> MutexGuard<'_, Content> {
        // Nothing panics while it is held.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Post for Letterbox {
    fn post(&self, answered: Answered) {
        let mut content = self.lock();
        content.answers.push(answered);
        let sleeper = content.sleeper.take();
        drop(content);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

/// Hands the broker every answer as it comes.
pub(super) async fn take_answers(core: Hold, letterbox: Arc<Letterbox>) {
    loop {
        let answers = poll_fn(|cx| {
            let mut content = letterbox.lock();
            if content.answers.is_empty() {
                content.sleeper = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(std::mem::take(&mut content.answers))
        })
        .await;
        for answered in answers {
            core.borrow_mut().input(now(), Input::Answered(answered));
        }
    }
}
