//! What each request was given, for whoever asks after it was cut off: its answer carried no usage.
//!
//! A caller names its request (`x-request-id`) and asks by that name. An account is open while the engine may still work for
//! the request, and closed by the drop of its handle, so that whatever ends a request ends the waiting for its account.
//! INVARIANT: memory is bounded: the newest accounts are kept, the oldest forgotten.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use galerne_api::openai::{CompletionTokensDetails, PromptTokensDetails, Usage, WorkerUsage};
use tokio::sync::Notify;

use crate::limits;

/// Tokens computed for a request and the CPU time they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    /// Cached ones included; of a prompt cut off half-way, what was computed.
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub cached_tokens: usize,
    pub cpu_micros: u64,
}

/// The accounts of the last requests.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    kept: Mutex<Kept>,
    closed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// `None` while open. A name used again is another account.
    by_name: HashMap<String, (u64, Option<Spent>)>,
    order: VecDeque<(u64, String)>,
    next: u64,
}

/// The account of one request. Nothing is kept of a request without a name.
#[derive(Debug, Default)]
pub(crate) struct Account {
    of: Option<(Arc<Accounts>, String, u64)>,
    spent: Spent,
}

impl Accounts {
    /// Opens the account of a request; a request without a name gets one that nobody can ask for.
    pub(crate) fn open(self: &Arc<Self>, name: Option<String>) -> Account {
        let Some(name) = name else { return Account::default() };
        let mut kept = self.lock();
        let number = kept.next;
        kept.next += 1;
        kept.by_name.insert(name.clone(), (number, None));
        kept.order.push_back((number, name.clone()));
        while kept.order.len() > limits::ACCOUNTS {
            kept.forget_oldest();
        }
        Account { of: Some((Arc::clone(self), name, number)), spent: Spent::default() }
    }

    /// What a request was given, once it has ended; nothing when it is not known.
    pub(crate) async fn closed(&self, name: &str) -> Option<Spent> {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            // From here on no closing is missed.
            closed.as_mut().enable();
            let state = self.lock().by_name.get(name).map(|(_, spent)| *spent)?;
            if state.is_some() {
                return state;
            }
            closed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Every change leaves the list whole enough to be read.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget_oldest(&mut self) {
        let Some((number, name)) = self.order.pop_front() else { return };
        if self.by_name.get(&name).is_some_and(|(kept, _)| *kept == number) {
            self.by_name.remove(&name);
        }
    }
}

impl Account {
    /// Notes what was spent up to now.
    pub(crate) fn set(&mut self, spent: Spent) {
        self.spent = spent;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some((accounts, name, number)) = self.of.take() else { return };
        if let Some((kept, spent)) = accounts.lock().by_name.get_mut(&name)
            && *kept == number
        {
            *spent = Some(self.spent);
        }
        accounts.closed.notify_waiters();
    }
}

impl Spent {
    /// In OpenAI's words and ours.
    pub(crate) fn usage(self) -> Usage {
        let cached_tokens = self.cached_tokens as u64;
        Usage {
            prompt_tokens: self.prompt_tokens as u64,
            completion_tokens: self.completion_tokens as u64,
            total_tokens: (self.prompt_tokens + self.completion_tokens) as u64,
            prompt_tokens_details: Some(PromptTokensDetails { cached_tokens }),
            completion_tokens_details: Some(CompletionTokensDetails { reasoning_tokens: 0 }),
            galerne: Some(WorkerUsage { cpu_micros: self.cpu_micros, cached_tokens }),
            ..Usage::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPENT: Spent = Spent { prompt_tokens: 9, completion_tokens: 4, cached_tokens: 2, cpu_micros: 77 };

    #[tokio::test]
    async fn an_account_is_told_when_its_request_has_ended_and_not_before() {
        let accounts = Arc::new(Accounts::default());
        let mut account = accounts.open(Some("a".into()));
        let asked = accounts.closed("a");
        tokio::pin!(asked);
        assert!(futures_util::poll!(&mut asked).is_pending());
        account.set(SPENT);
        assert!(futures_util::poll!(&mut asked).is_pending());
        drop(account);
        assert_eq!(asked.await, Some(SPENT));
        assert_eq!(accounts.closed("a").await, Some(SPENT), "as often as it is asked");
        assert_eq!(accounts.closed("b").await, None);
    }

    #[tokio::test]
    async fn a_name_used_again_is_another_account() {
        let accounts = Arc::new(Accounts::default());
        let mut first = accounts.open(Some("a".into()));
        first.set(SPENT);
        let second = accounts.open(Some("a".into()));
        drop(first);
        let asked = accounts.closed("a");
        tokio::pin!(asked);
        assert!(futures_util::poll!(&mut asked).is_pending(), "the first one's end is not the second one's");
        drop(second);
        assert_eq!(asked.await, Some(Spent::default()));
    }

    #[tokio::test]
    async fn only_the_newest_are_kept() {
        let accounts = Arc::new(Accounts::default());
        for n in 0..=limits::ACCOUNTS {
            drop(accounts.open(Some(n.to_string())));
        }
        drop(accounts.open(None));
        assert_eq!(accounts.lock().by_name.len(), limits::ACCOUNTS);
        assert_eq!(accounts.closed("0").await, None);
        assert_eq!(accounts.closed("1").await, Some(Spent::default()));
    }
}
