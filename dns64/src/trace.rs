//! What `explain` shows: the steps of one question, written only when somebody reads them.

/// Collects steps when asked to, costs nothing when not.
#[derive(Debug, Default)]
pub(crate) struct Trace(Option<Vec<String>>);

impl Trace {
    /// A trace that keeps its steps.
    pub(crate) fn kept() -> Trace {
        Trace(Some(Vec::new()))
    }

    /// Another trace that keeps its steps if this one does.
    pub(crate) fn beside(&self) -> Trace {
        Trace(self.0.as_ref().map(|_| Vec::new()))
    }

    /// Takes over the steps of another.
    pub(crate) fn append(&mut self, other: Trace) {
        if let (Some(steps), Some(more)) = (&mut self.0, other.0) {
            steps.extend(more);
        }
    }

    /// Adds a step; the text is made only if it is kept.
    pub(crate) fn step(&mut self, text: impl FnOnce() -> String) {
        if let Some(steps) = &mut self.0 {
            steps.push(text());
        }
    }

    /// The steps so far.
    pub(crate) fn into_steps(self) -> Vec<String> {
        self.0.unwrap_or_default()
    }
}
