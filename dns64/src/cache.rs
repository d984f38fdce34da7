//! Answers kept for their TTL, absences and failures included.

use std::sync::Arc;
use std::time::Duration;

use crate::answer::{Answer, ExtendedError, ExtendedErrorCode, Question};
use crate::clock::Clock;
use crate::config::Limits;

/// Answers of the upstreams by question, bounded in number; the least used give way.
pub(crate) struct Cache {
    entries: quick_cache::sync::Cache<Question, Arc<Entry>>,
    clock: Clock,
}

struct Entry {
    answer: Answer,
    born: Duration,
    ttl: Duration,
}

impl Cache {
    pub(crate) fn new(limits: &Limits, clock: Clock) -> Cache {
        Cache {
            entries: quick_cache::sync::Cache::new(limits.cache_entry_count_max),
            clock,
        }
    }

    /// A fresh answer with its TTLs counted down.
    pub(crate) fn get(&self, question: &Question) -> Option<Answer> {
        let entry = self.entries.get(question)?;
        let age = self.clock.now().saturating_sub(entry.born);
        if age >= entry.ttl {
            return None;
        }
        let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let mut answer = entry.answer.aged(seconds);
        if !answer.is_success() {
            let error = ExtendedError::new(ExtendedErrorCode::CachedError, "failed shortly before");
            answer.extended_errors.push(error);
        }
        Some(answer)
    }

    /// Keeps the answer as long as it, and the limits, allow.
    pub(crate) fn insert(&self, question: &Question, answer: &Answer, limits: &Limits) {
        let seconds = if !answer.is_success() {
            limits.failure_seconds
        } else if answer.has(question.qtype) {
            answer.ttl(question.qtype).min(limits.cache_seconds_max)
        } else {
            answer.ttl(question.qtype).min(limits.negative_seconds_max)
        };
        if seconds == 0 {
            return;
        }
        let entry = Entry {
            answer: answer.clone(),
            born: self.clock.now(),
            ttl: Duration::from_secs(u64::from(seconds)),
        };
        self.entries.insert(question.clone(), Arc::new(entry));
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.entries.clear();
    }

    /// Answers kept, expired ones not yet displaced included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
