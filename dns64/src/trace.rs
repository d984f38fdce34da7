//! What `explain` shows: the steps of one question, written only when somebody reads them.

/// Collects steps when asked to, costs nothing when not.
#[derive(Debug, Default)]
pub(crate) struct Trace(Option<Vec<String>>);

impl Trace {
    /// A trace that keeps its steps.
    pub(crate) fn kept() -> Trace {
        Trace(Some(Vec::new()))
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
