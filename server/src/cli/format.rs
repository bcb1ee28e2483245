//! Values as people read them.

use std::time::Duration;

use wardian_proto::{Digest, reapi};

/// Digits of a hash that are enough to recognise it.
const SHORT_HASH_DIGITS: usize = 8;

/// Returns a size such as `75.5 MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Returns a duration such as `41.2 s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 0.000_999_5 => format!("{:.0} µs", s * 1e6),
        s if s < 0.009_95 => format!("{:.1} ms", s * 1e3),
        s if s < 0.999_5 => format!("{:.0} ms", s * 1e3),
        s if s < 99.95 => format!("{s:.1} s"),
        s => format!("{}m{:02}s", s.round() as u64 / 60, s.round() as u64 % 60),
    }
}

/// Returns the first digits of a hash.
pub(crate) fn short(digest: &Digest) -> String {
    let mut hash = digest.hash_hex();
    hash.truncate(SHORT_HASH_DIGITS);
    hash
}

/// Returns text that a terminal can be trusted with: control characters are escaped.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() { plain.extend(character.escape_default()) } else { plain.push(character) }
    }
    plain
}

/// The same for text of several lines.
pub(crate) fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// Each row as JSON on a line of its own.
pub(crate) fn json_lines(rows: &[impl serde::Serialize]) -> anyhow::Result<String> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row)?;
        text.push('\n');
    }
    Ok(text)
}

/// Returns an argument as a POSIX shell would have to be given it.
pub(crate) fn shell_quoted(argument: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !argument.is_empty() && argument.chars().all(is_safe) {
        return argument.to_owned();
    }
    format!("'{}'", plain(&argument.replace('\'', r"'\''")))
}

/// How long the parts of a run took, as far as the worker says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Timings {
    #[serde(rename = "queued_ms", serialize_with = "millis")]
    pub(crate) queued: Option<Duration>,
    #[serde(rename = "input_fetch_ms", serialize_with = "millis")]
    pub(crate) input_fetch: Option<Duration>,
    #[serde(rename = "execution_ms", serialize_with = "millis")]
    pub(crate) execution: Option<Duration>,
    #[serde(rename = "output_upload_ms", serialize_with = "millis")]
    pub(crate) output_upload: Option<Duration>,
}

fn millis<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&duration.map(|d| d.as_secs_f64() * 1e3), serializer)
}

impl Timings {
    pub(crate) fn of(metadata: &reapi::ExecutedActionMetadata) -> Self {
        let m = metadata;
        Self {
            queued: between(m.queued_timestamp, m.worker_start_timestamp),
            input_fetch: between(m.input_fetch_start_timestamp, m.input_fetch_completed_timestamp),
            execution: between(m.execution_start_timestamp, m.execution_completed_timestamp),
            output_upload: between(m.output_upload_start_timestamp, m.output_upload_completed_timestamp),
        }
    }

    /// The parts that are known, each with its name.
    pub(crate) fn named(&self) -> Vec<(&'static str, Duration)> {
        let parts = [
            ("queued", self.queued),
            ("input fetch", self.input_fetch),
            ("execution", self.execution),
            ("output upload", self.output_upload),
        ];
        parts.into_iter().filter_map(|(name, part)| Some((name, part?))).collect()
    }
}

/// The time from one moment to a later one; nothing when one is unknown or the clock went back.
fn between(start: Option<prost_types::Timestamp>, end: Option<prost_types::Timestamp>) -> Option<Duration> {
    let nanos = |t: prost_types::Timestamp| i128::from(t.seconds) * 1_000_000_000 + i128::from(t.nanos);
    let nanos = nanos(end?) - nanos(start?);
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_round_where_people_do() {
        let sizes =
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (75_532_134, "75.5 MB"), (999_960, "1.0 MB")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "18446.7 PB");
        let durations = [
            (3, "3 µs"),
            (2_300, "2.3 ms"),
            (41_000, "41 ms"),
            (41_234_567, "41.2 s"),
            (125_000_000, "2m05s"),
        ];
        for (micros, text) in durations {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn arguments_are_quoted_when_a_shell_would_change_them() {
        for (argument, quoted) in [
            ("-O2", "-O2"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$x", "'$x'"),
            ("\x1b[2J", r"'\u{1b}[2J'"),
        ] {
            assert_eq!(shell_quoted(argument), quoted);
        }
    }

    #[test]
    fn a_clock_that_went_back_gives_no_time() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 5 });
        assert_eq!(between(at(10), at(12)), Some(Duration::from_secs(2)));
        assert_eq!(between(at(12), at(10)), None);
        assert_eq!(between(None, at(10)), None);
        assert_eq!(between(at(i64::MIN), at(i64::MAX)), None);
    }
}
