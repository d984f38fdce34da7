//! Numbers for people.

/// 1_234_567 as "1 234 567".
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Seconds as "2h 4m" with at most two units.
pub fn seconds(total: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let mut rest = total;
    let mut parts = Vec::new();
    for (unit, length) in units {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            parts.push(format!("{count}{unit}"));
        }
    }
    match parts.len() {
        0 => "0s".to_owned(),
        _ => parts[..parts.len().min(2)].join(" "),
    }
}

/// A rate or size with a decimal prefix: "12.3 M".
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub fn scaled(number: u64, unit: &str) -> String {
    scaled_float(number as f64, unit)
}

/// As [`scaled`], of a fraction.
pub fn scaled_float(number: f64, unit: &str) -> String {
    let mut value = number;
    for prefix in ["", "k", "M", "G", "T"] {
        if value < 1000.0 {
            let digits = if prefix.is_empty() || value >= 100.0 {
                0
            } else {
                1
            };
            return format!("{value:.digits$} {prefix}{unit}")
                .trim_end()
                .to_owned();
        }
        value /= 1000.0;
    }
    format!("{value:.0} P{unit}")
}

/// A part as "12.3 %".
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(seconds(0), "0s");
        assert_eq!(seconds(7440), "2h 4m");
        assert_eq!(seconds(90_061), "1d 1h");
        assert_eq!(scaled(999, "B"), "999 B");
        assert_eq!(scaled(12_345_678, "B"), "12.3 MB");
        assert_eq!(scaled(1500, ""), "1.5 k");
        assert_eq!(percent(1, 8), "12.5 %");
        assert_eq!(percent(1, 0), "-");
    }
}
