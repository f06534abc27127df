//! Logins that wait for their check: those who wait take turns by where they come from, so that a flood of guesses
//! from one source keeps nobody else from coming in.

use std::collections::VecDeque;

use super::logins::PasswordCheck;
use crate::auth::guessing::Source;

/// Checks asked for and not begun.
///
/// 1. There are at most [`Turns::WAITING_MAX`], and of one source at most [`Turns::OF_SOURCE_MAX`].
/// 2. No queue in it is empty, and no two are of one source.
#[derive(Default)]
pub(super) struct Turns {
    /// The first has its turn next.
    queues: VecDeque<Queue>,
}

/// What one source waits for.
struct Queue {
    /// `None`: programs of this machine, which may have nothing to do with each other.
    source: Option<Source>,
    checks: VecDeque<PasswordCheck>,
}

impl Turns {
    /// Checks that may wait. Each takes tens of milliseconds on a PC and near half a second on the smallest board, and
    /// only one runs at a time, so longer queues would only time out.
    pub(super) const WAITING_MAX: usize = 64;

    /// Checks of one source that may wait: as many as it may have connections that are not in.
    pub(super) const OF_SOURCE_MAX: usize = 8;

    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(|queue| queue.checks.len()).sum()
    }

    /// Lets `check` wait. Where there is no room, whoever has to go without is given back: the last of the source with
    /// most, or the newcomer.
    pub(super) fn push(&mut self, check: PasswordCheck) -> Option<PasswordCheck> {
        let own = self.queues.iter().position(|queue| queue.source == check.source);
        let waiting = own
            .and_then(|own| self.queues.get(own))
            .map_or(0, |queue| queue.checks.len());
        if check.source.is_some() && waiting >= Self::OF_SOURCE_MAX {
            return Some(check);
        }
        let mut given_back = None;
        if self.len() >= Self::WAITING_MAX {
            let longest = self.queues.iter_mut().max_by_key(|queue| queue.checks.len());
            match longest {
                Some(queue) if queue.checks.len() > waiting + 1 => given_back = queue.checks.pop_back(),
                _ => return Some(check),
            }
        }
        match own.and_then(|own| self.queues.get_mut(own)) {
            Some(queue) => queue.checks.push_back(check),
            None => self.queues.push_back(Queue {
                source: check.source,
                checks: VecDeque::from([check]),
            }),
        }
        given_back
    }

    /// The next check, of the source that has waited longest for its turn.
    pub(super) fn pop(&mut self) -> Option<PasswordCheck> {
        let mut queue = self.queues.pop_front()?;
        let check = queue.checks.pop_front();
        if !queue.checks.is_empty() {
            self.queues.push_back(queue);
        }
        check
    }

    /// Forgets the checks that nobody wants any more.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&PasswordCheck) -> bool) {
        for queue in &mut self.queues {
            queue.checks.retain(&is_wanted);
        }
        self.queues.retain(|queue| !queue.checks.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::LinkId;
    use crate::mqtt::Utf8String;

    fn check(source: Option<u32>, user: &str) -> PasswordCheck {
        PasswordCheck {
            link: LinkId::default(),
            user: Utf8String::try_from(user).expect("text"),
            password: bytes::Bytes::new(),
            source: source.map(Source::LocalUser),
        }
    }

    fn users(turns: &mut Turns) -> Vec<String> {
        std::iter::from_fn(|| turns.pop())
            .map(|check| check.user.as_str().to_owned())
            .collect()
    }

    #[test]
    fn sources_take_turns_however_many_of_one_wait() {
        let mut turns = Turns::default();
        for number in 0..5 {
            assert!(turns.push(check(Some(1), &format!("guess{number}"))).is_none());
        }
        assert!(turns.push(check(Some(2), "ann")).is_none());
        assert!(turns.push(check(None, "local")).is_none());
        let expected = ["guess0", "ann", "local", "guess1", "guess2", "guess3", "guess4"];
        assert_eq!(users(&mut turns), expected);
    }

    #[test]
    fn a_source_has_a_few_waiting_and_this_machine_as_many_as_there_is_room_for() {
        let mut turns = Turns::default();
        for _ in 0..Turns::OF_SOURCE_MAX {
            assert!(turns.push(check(Some(1), "guess")).is_none());
        }
        let given_back = turns.push(check(Some(1), "one more"));
        assert_eq!(
            given_back.map(|check| check.user.as_str().to_owned()).as_deref(),
            Some("one more")
        );
        while turns.len() < Turns::WAITING_MAX {
            assert!(turns.push(check(None, "local")).is_none());
        }
        let given_back = turns.push(check(None, "local, one more"));
        assert!(given_back.is_some_and(|check| check.user.as_str() == "local, one more"));
    }

    #[test]
    fn where_there_is_no_room_the_last_of_the_source_with_most_gives_way_to_a_newcomer() {
        let mut turns = Turns::default();
        for number in 0..Turns::WAITING_MAX {
            let source = u32::try_from(number / Turns::OF_SOURCE_MAX).expect("small");
            assert!(turns.push(check(Some(source), "guess")).is_none());
        }
        for newcomer in 100..148 {
            let given_back = turns.push(check(Some(newcomer), "ann"));
            assert!(given_back.is_some_and(|check| check.user.as_str() == "guess"));
            assert_eq!(turns.len(), Turns::WAITING_MAX);
        }
        let waiting = users(&mut turns);
        assert_eq!(waiting.iter().filter(|user| *user == "ann").count(), 48);
    }

    #[test]
    fn where_all_sources_wait_for_one_check_a_newcomer_is_refused() {
        let mut turns = Turns::default();
        for source in 0..Turns::WAITING_MAX {
            let source = u32::try_from(source).expect("small");
            assert!(turns.push(check(Some(source), "guess")).is_none());
        }
        assert!(
            turns
                .push(check(Some(100), "ann"))
                .is_some_and(|check| check.user.as_str() == "ann")
        );
        turns.retain(|check| check.source == Some(Source::LocalUser(7)));
        assert_eq!((turns.len(), turns.queues.len()), (1, 1));
    }
}
