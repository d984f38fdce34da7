//! What was refused and is tried again: when, and whether an operator has been told why.

use std::time::{Duration, Instant};

/// How long a refusal is left alone.
const AFTER: Duration = Duration::from_secs(10);

/// What was refused last, if it was.
#[derive(Debug, Default)]
pub struct Retry {
    refused: Option<(String, Instant)>,
}

impl Retry {
    /// When to try again; nothing if the last try went well.
    pub fn at(&self) -> Option<Instant> {
        self.refused.as_ref().map(|(_, at)| *at)
    }

    /// Whether it is time to try, for the first time too.
    pub fn is_due(&self, now: Instant) -> bool {
        self.at().is_none_or(|at| at <= now)
    }

    /// Notes a refusal. Whether its reason is news.
    pub fn refuse(&mut self, reason: &str, now: Instant) -> bool {
        let before = self.refused.replace((reason.to_owned(), now + AFTER));
        before.is_none_or(|(before, _)| before != reason)
    }

    /// Notes that it went well. Whether it was refused before.
    pub fn succeed(&mut self) -> bool {
        self.refused.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_tried_again_and_told_once() {
        let mut retry = Retry::default();
        let now = Instant::now();
        assert!(retry.is_due(now));
        assert!(retry.refuse("no room", now));
        assert!(!retry.is_due(now + AFTER / 2));
        assert!(retry.is_due(now + AFTER));
        assert!(!retry.refuse("no room", now + AFTER), "told already");
        assert!(retry.refuse("no permission", now + 2 * AFTER));
        assert!(retry.succeed());
        assert_eq!(retry.at(), None);
        assert!(!retry.succeed());
    }
}
