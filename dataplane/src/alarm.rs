//! Alarms with hysteresis: raised when something is nearly used up, cleared only when there is
//! room again, so that a value that swings about one bound is told once.

/// When an alarm is raised and cleared, in percent of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Raised at this use or above.
    pub raise_percent: u8,
    /// Cleared at this use or below; less than `raise_percent`.
    pub clear_percent: u8,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            raise_percent: 80,
            clear_percent: 70,
        }
    }
}

/// A change of an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// It is on now.
    Raised,
    /// It is off again.
    Cleared,
}

/// One alarm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alarm {
    /// Whether it is on.
    pub is_raised: bool,
}

impl Alarm {
    /// Takes a new value; answers if that changes the alarm. Nothing of nothing is no use.
    pub fn observe(&mut self, used: u64, total: u64, thresholds: Thresholds) -> Option<Edge> {
        let at_least =
            |percent: u8| u128::from(used) * 100 >= u128::from(total) * u128::from(percent);
        let at_most =
            |percent: u8| u128::from(used) * 100 <= u128::from(total) * u128::from(percent);
        if !self.is_raised && total > 0 && at_least(thresholds.raise_percent) {
            self.is_raised = true;
            return Some(Edge::Raised);
        }
        if self.is_raised && (total == 0 || at_most(thresholds.clear_percent)) {
            self.is_raised = false;
            return Some(Edge::Cleared);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_the_bounds_nothing_changes() {
        let mut alarm = Alarm::default();
        let mut edges = Vec::new();
        for used in [0, 79, 80, 81, 75, 80, 71, 100, 70, 75, 79, 80, 0] {
            edges.extend(
                alarm
                    .observe(used, 100, Thresholds::default())
                    .map(|e| (used, e)),
            );
        }
        let expected = [
            (80, Edge::Raised),
            (70, Edge::Cleared),
            (80, Edge::Raised),
            (0, Edge::Cleared),
        ];
        assert_eq!(edges, expected);
    }

    #[test]
    fn of_nothing_nothing_is_used_up() {
        let mut alarm = Alarm { is_raised: true };
        let thresholds = Thresholds::default();
        assert_eq!(alarm.observe(0, 0, thresholds), Some(Edge::Cleared));
        assert_eq!(alarm.observe(0, 0, thresholds), None);
    }
}
